//! The disks of the gateways: what happens to them, and what their spools hold.

use super::*;

impl World {
    /// Gateways whose spool holds room for what nobody keeps, in words.
    pub fn astray(&self) -> Vec<String> {
        let of = |(process, machine): (&Process, &Machine)| {
            let Some(Program::Gateway(gateway)) = &machine.program else {
                return None;
            };
            let bytes = gateway.astray().unwrap();
            let name = name_of(*process);
            (bytes > 0).then(|| format!("{name} holds {bytes} bytes that belong to no package"))
        };
        self.machines.iter().filter_map(of).collect()
    }

    /// Nothing that lies in the spool of a gateway by now can be read any more: its sectors fail.
    pub fn wear_out_spool(&self, process: Process) {
        let machine = self.machine(process);
        for path in self.spool_files(process) {
            let length = machine.memory.status(&path).unwrap().length;
            machine.bad.wear_out(&path, length);
            let name = path.file_name().unwrap().display().to_string();
            self.story
                .tell(format_args!("{}: {name} wears out", name_of(process)));
        }
    }

    /// A gateway has too many files open to open one in its spool, or it has no more.
    pub fn crowd_spool(&self, process: Process, crowded: bool) {
        let all = self.spool_files(process);
        let places = if crowded { all.as_slice() } else { &[] };
        self.machine(process).bad.crowd(places);
    }

    fn spool_files(&self, process: Process) -> Vec<PathBuf> {
        let Process::Gateway(party) = process else {
            return Vec::new();
        };
        let memory = &self.machine(process).memory;
        let spool = gateway_config(party).data_dir.join("spool");
        let within = [spool.clone(), spool.join("shared")];
        let all = within.iter().flat_map(|dir| memory.list(dir).unwrap());
        let is_pack = |path: &PathBuf| {
            let end = path.extension().and_then(|end| end.to_str());
            matches!(end, Some("pack" | "packs"))
        };
        all.filter(is_pack).collect()
    }

    /// The disk of a machine is full, or there is room again.
    pub fn set_full(&self, process: Process, full: bool) {
        self.machine(process).memory.set_full(full);
        let word = if full { "full" } else { "not full any more" };
        self.story
            .tell(format_args!("{}: the disk is {word}", name_of(process)));
    }

    /// Packages that a gateway has to hand over to the agent of a party.
    pub fn packages_for(&self, gateway: Process, party: &str) -> u64 {
        let Some(Program::Gateway(gateway)) = &self.machine(gateway).program else {
            return 0;
        };
        let hop = Hop::agent(party.parse().unwrap());
        let waiting = gateway.waiting();
        waiting.get(&hop).map_or(0, |counts| counts.waiting)
    }
}

//! Operations of a real process's disk fail: it stops or goes on, and after a start without faults
//! nothing is lost, doubled, altered or left behind. That each operation may fail is shown where
//! the parts of gateway and agent are tested without processes; here the whole program answers.

use std::fs;
use std::time::{Duration, Instant};

use passerelle_disk::{FAIL_AT, Fault, Flavour};
use passerelle_gateway::EXIT_STOPPED;
use passerelle_tests::{DIJON_AGENT, DIJON_GATEWAY, Process, eventually};

use crate::walk::{STEP_LIMIT, Walk, one_at_a_time};

/// From one operation that fails to the next, unless `PASSERELLE_FAULT_STRIDE` says otherwise.
const STRIDE: u64 = 61;
/// Operations of a start and one round are fewer than this.
const OPERATIONS_MAX: u64 = 2_000;
/// How long a process that goes on has to come to terms with a failure before it is started again.
const PATIENCE: Duration = Duration::from_secs(15);

impl Walk {
    /// Starts the process with a fault to come; whether it came.
    fn fail(&mut self, fault: &Fault) -> bool {
        self.lab.kill(self.process);
        let printed = self.printed();
        let asked = fault.to_string();
        self.lab.run_with(self.process, &[(FAIL_AT, &asked)]);
        self.drop_files();
        let begun = Instant::now();
        let ended = eventually("an end, or quiet, or patience", STEP_LIMIT, || {
            let ended = self.lab.process(self.process).ended();
            let enough = self.is_quiet() || begun.elapsed() > PATIENCE;
            (ended.is_some() || enough).then_some(ended)
        });
        let failed = self.printed() > printed;
        if let (Some(code), Process::Gateway(_)) = (ended, self.process) {
            assert!(failed, "it ended for no reason with {code}");
            assert_eq!(code, i32::from(EXIT_STOPPED), "{fault}");
        }
        let went_on = ended.is_none();
        println!(
            "{:?} {fault}: failed {failed}, went on {went_on}",
            self.process
        );
        if went_on {
            self.lab.kill(self.process);
        }
        self.lab.run(self.process);
        self.settle(&asked);
        failed
    }

    /// How often an operation has failed.
    fn printed(&self) -> usize {
        let printed = fs::read_to_string(self.lab.log(self.process)).unwrap();
        printed
            .matches(&format!("fails, as {FAIL_AT} says"))
            .count()
    }
}

fn fail_some(process: Process) {
    let _one = one_at_a_time();
    let mut walk = Walk::start(process);
    let kinds = [
        (false, Flavour::Lost),
        (true, Flavour::Lost),
        (false, Flavour::Persisted),
        (true, Flavour::Persisted),
    ];
    let stride = std::env::var("PASSERELLE_FAULT_STRIDE");
    let stride = stride.map_or(STRIDE, |value| value.parse().unwrap());
    let operations = (1..OPERATIONS_MAX).step_by(stride as usize);
    for (operation, (full, flavour)) in operations.zip(kinds.into_iter().cycle()) {
        let fault = Fault {
            operation,
            full,
            flavour,
        };
        if !walk.fail(&fault) {
            assert!(operation > stride, "no operation was reached");
            return;
        }
    }
    panic!("one round has no end");
}

#[test]
fn a_gateway_whose_disk_fails_stops_or_goes_on_and_loses_nothing() {
    fail_some(DIJON_GATEWAY);
}

#[test]
fn an_agent_whose_disk_fails_stops_or_goes_on_and_loses_nothing() {
    fail_some(DIJON_AGENT);
}

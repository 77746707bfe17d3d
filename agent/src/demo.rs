//! `passerelle demo`: the whole exchange on this machine, told step by step.

mod iris;
mod place;
mod proof;
mod signals;
mod site;
mod table;
mod watch;

use std::fmt::{self, Display};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use passerelle_proto::v1::agent_client::AgentClient;
use passerelle_proto::v1::statement::What;
use passerelle_proto::v1::{AcknowledgeRequest, Entry, LogRecord, entry::Event};
use passerelle_proto::{PackageId, Timestamp};
use prost::Message;
use serde::Serialize;

use self::place::Place;
use self::signals::Signals;
use self::site::{Operator, Site, gateway_of};
use self::watch::{Watch, late};
use crate::AgentEvent;
use crate::cli::{
    Bytes, DemoArguments, Elapsed, Exit, Failure, Output, Parcel, Steps, channel, drop_into,
    lab_failure, now_ms, refused,
};
use crate::lab::{CONTRACTOR, LabOptions, LabParty, Laboratory, PARTNER, PRODUCER};

/// How long a step may take, besides the time for its bytes.
const STEP_MAX: Duration = Duration::from_secs(60);
/// Bytes per second below which a transfer on one machine counts as stuck.
const RATE_MIN: u64 = 1_000_000;
/// How long the partner may take to cosign.
const COSIGN_MAX: Duration = Duration::from_secs(30);

/// Tells the story; with `once` it ends when everything is verified, else with Ctrl-C.
pub async fn run(arguments: &DemoArguments, output: &mut Output<'_>) -> Result<(), Failure> {
    logging();
    let begun = Instant::now();
    let mut steps = Steps::new(output);
    if let Some(file) = &arguments.file {
        fs::metadata(file).map_err(|error| Failure::reading(file, &error))?;
    }
    let place = Place::create(arguments.keep.as_deref())?;
    let told = Box::pin(tell(arguments, &place, &mut steps, begun)).await;
    drop(steps);
    match told {
        Ok(Ending::Told) => {
            place.end();
            Ok(())
        }
        Ok(Ending::Interrupted) => {
            place.end();
            let what = "the demonstration was interrupted before everything was verified";
            Err(Failure::new(Exit::Again, what, "run it again"))
        }
        Err(failure) => {
            let path = place.keep();
            Err(failure.and_also(format_args!("everything is still in {}", path.display())))
        }
    }
}

/// How the story ended.
enum Ending {
    Told,
    Interrupted,
}

async fn tell(
    arguments: &DemoArguments,
    place: &Place,
    steps: &mut Steps<'_, '_>,
    begun: Instant,
) -> Result<Ending, Failure> {
    let mut signals = Signals::listen()?;
    steps.note("A data exchange between the CAF and Grand Dijon, on this machine.\n")?;
    let laboratory = make_laboratory(place.path(), steps)?;
    let story = Story::new(arguments, laboratory)?;
    steps.begin("starting two gateways and three agents");
    let site = Site::start(&story.laboratory).await?;
    let how = site.transports(&story.laboratory);
    steps.done("Two gateways and three agents run and know each other", how)?;
    let told = tokio::select! {
        told = Box::pin(story.tell(&site, steps)) => Some(told),
        () = signals.asked() => None,
    };
    let proved = match told {
        Some(Ok(proved)) => proved,
        Some(Err(failure)) => {
            site.stop().await;
            return Err(failure);
        }
        None => {
            site.stop().await;
            return Ok(Ending::Interrupted);
        }
    };
    steps.answer(&Verified {
        verified: true,
        elapsed_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
        dir: story.laboratory.dir.clone(),
        kept: arguments.keep.is_some(),
        received: proved,
        look: story.look_around(),
        stays: !arguments.once,
    })?;
    if !arguments.once {
        signals.asked().await;
    }
    site.stop().await;
    Ok(Ending::Told)
}

/// The messages of the programs, for those who ask for them.
fn logging() {
    let Ok(filter) = tracing_subscriber::EnvFilter::try_from_env("PASSERELLE_LOG") else {
        return;
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter);
    builder.with_writer(std::io::stderr).init();
}

fn make_laboratory(dir: &Path, steps: &mut Steps<'_, '_>) -> Result<Laboratory, Failure> {
    steps.begin("making a laboratory");
    let mut options = LabOptions::new(Timestamp::from_ms(now_ms()));
    options.settle_ms = 100;
    options.poll_ms = 50;
    options.metrics = false;
    let laboratory = Laboratory::create(dir, &options).map_err(|error| lab_failure(&error))?;
    let details = vec![
        format!("in {}", laboratory.dir.display()),
        "an authority, certificates and keys for the CAF, Grand Dijon and a contractor".into(),
        "a convention derived from the one of 2016-2017, valid from today, signed by both".into(),
    ];
    steps.done("A laboratory was made", details)?;
    Ok(laboratory)
}

/// The end of the story.
#[derive(Debug, Serialize)]
struct Verified {
    verified: bool,
    elapsed_ms: u64,
    dir: PathBuf,
    kept: bool,
    received: Vec<PathBuf>,
    #[serde(skip)]
    look: Vec<String>,
    #[serde(skip)]
    stays: bool,
}

impl Display for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let elapsed = Elapsed(Duration::from_millis(self.elapsed_ms));
        writeln!(
            f,
            "\nAll of it is verified, after {elapsed}. What was received lies in:"
        )?;
        for path in &self.received {
            writeln!(f, "  {}", path.display())?;
        }
        if self.stays {
            writeln!(
                f,
                "\nEverything still runs. Look around from another terminal:"
            )?;
            for command in &self.look {
                writeln!(f, "  {command}")?;
            }
        }
        match (self.stays, self.kept) {
            (true, true) => writeln!(f, "\nCtrl-C stops it; the directory stays."),
            (true, false) => writeln!(f, "\nCtrl-C stops it and removes the directory."),
            (false, true) => writeln!(f, "\nThe directory stays: {}", self.dir.display()),
            (false, false) => writeln!(f, "\nThe directory is removed now; --keep DIR keeps one."),
        }
    }
}

/// What is sent, by whom.
struct Story {
    laboratory: Laboratory,
    /// What the CAF sends: a file, or a directory.
    source: PathBuf,
    own_file: bool,
    bytes: u64,
}

impl Story {
    fn new(arguments: &DemoArguments, laboratory: Laboratory) -> Result<Story, Failure> {
        let (source, own_file) = match &arguments.file {
            Some(file) => (file.clone(), true),
            None => (
                laboratory.dir.join("a-envoyer").join(table::TABLE_NAME),
                false,
            ),
        };
        if !own_file {
            let folder = laboratory.dir.join("a-envoyer");
            fs::create_dir(&folder).map_err(|error| Failure::writing(&folder, &error))?;
            fs::write(&source, table::table()).map_err(|e| Failure::writing(&source, &e))?;
        }
        let metadata = fs::metadata(&source).map_err(|error| Failure::reading(&source, &error))?;
        Ok(Story {
            laboratory,
            source,
            own_file,
            bytes: metadata.len(),
        })
    }

    fn party(&self, name: &str) -> Result<&LabParty, Failure> {
        let found = self.laboratory.party(name);
        found.ok_or_else(|| late(&format!("the laboratory has no {name}")))
    }

    fn limit(&self) -> Duration {
        STEP_MAX + Duration::from_secs(self.bytes / RATE_MIN)
    }

    /// Everything after the start; says where the received files are.
    async fn tell(&self, site: &Site, steps: &mut Steps<'_, '_>) -> Result<Vec<PathBuf>, Failure> {
        let mut watches = Watches {
            caf: site.watch(&self.laboratory, PRODUCER)?,
            partner: site.watch(&self.laboratory, PARTNER)?,
            contractor: site.watch(&self.laboratory, CONTRACTOR)?,
        };
        let (table, mut received) = self.send_table(&mut watches, steps).await?;
        steps.begin("looking at the receipts");
        let gateways = [PRODUCER, PARTNER];
        let signed = site
            .receipts(PRODUCER, table, &gateways, &[PARTNER, CONTRACTOR])
            .await?;
        steps.done("The CAF holds all receipts, each once", signed)?;
        self.one_ciphertext(table, steps).await?;
        let (report, path) = self.send_report(table, &mut watches, steps).await?;
        received.push(path);
        self.acknowledge(report, &mut watches, steps).await?;
        self.verify_logs(&[table, report], steps).await?;
        Ok(received)
    }

    async fn send_table(
        &self,
        watches: &mut Watches,
        steps: &mut Steps<'_, '_>,
    ) -> Result<(PackageId, Vec<PathBuf>), Failure> {
        let what = match self.own_file {
            true => format!("{} ({})", self.source.display(), Bytes(self.bytes)),
            false => "a made-up table of recipients of benefits, for 109 real IRIS".to_owned(),
        };
        steps.begin(format_args!("the CAF sends {what}"));
        let parcel = Parcel {
            source: self.source.clone(),
            flow: "observation-iris".into(),
            recipients: vec![PARTNER.into(), CONTRACTOR.into()],
            title: (!self.own_file).then(|| "Allocataires par IRIS, décembre 2016".into()),
            period: (!self.own_file).then(|| "2016-12".into()),
            ..Parcel::default()
        };
        let deadline = Watch::within(self.limit());
        drop_into(
            &self.party(PRODUCER)?.agent.directory.join("outbox"),
            &parcel,
        )?;
        let (package, sealed) = watches.caf.until("sealing", deadline, sealed).await?;
        steps.going("sealed; on its way to Grand Dijon and the contractor");
        let mut places = Vec::new();
        for watch in [&mut watches.partner, &mut watches.contractor] {
            places.push(
                watch
                    .until("receiving", deadline, |e| received(e, package))
                    .await?,
            );
        }
        let delivered = |event: &AgentEvent| finished(event, package);
        if !watches
            .caf
            .until("the receipts", deadline, delivered)
            .await?
        {
            return Err(late("the package ended without being delivered"));
        }
        let says = format!("The CAF sent {what} to Grand Dijon and its contractor");
        let details = vec![
            format!("package {package}"),
            format!("compressed and encrypted for both: {}", Bytes(sealed)),
        ];
        steps.done(says, details)?;
        steps.begin("comparing what was sent with what was received");
        let mut details = Vec::new();
        for place in &places {
            let (files, bytes) = self.compare(place)?;
            let place = place.display();
            details.push(format!(
                "{files} file(s), {} the same in {place}",
                Bytes(bytes)
            ));
        }
        steps.done("What was received is byte for byte what was sent", details)?;
        Ok((package, places))
    }

    fn compare(&self, received: &Path) -> Result<(u64, u64), Failure> {
        if self.source.is_dir() {
            return proof::same_files(&self.source, received);
        }
        // A single file is compared as the only one of a directory.
        let name = self.source.file_name().unwrap_or_default();
        let alone = self.laboratory.dir.join("envoye");
        let link = alone.join(name);
        if !link.exists() {
            fs::create_dir_all(&alone).map_err(|error| Failure::writing(&alone, &error))?;
            let source = self.source.canonicalize();
            let source = source.map_err(|error| Failure::reading(&self.source, &error))?;
            std::os::unix::fs::symlink(source, &link)
                .map_err(|error| Failure::writing(&link, &error))?;
        }
        proof::same_files(&alone, received)
    }

    /// That one ciphertext left the CAF's gateway, for two recipients.
    async fn one_ciphertext(
        &self,
        package: PackageId,
        steps: &mut Steps<'_, '_>,
    ) -> Result<(), Failure> {
        steps.begin("asking the CAF's gateway what left it");
        let mut operator = Operator::connect(gateway_of(self.party(PRODUCER)?)?).await?;
        let answer = operator.package(&package.to_string()).await?;
        let forwarded = answer
            .records
            .iter()
            .filter(|record| matches!(event_of(record), Some(Event::Forwarded(_))));
        let count = forwarded.count();
        if count != 1 {
            let what = format_args!("the package left the CAF's gateway {count} times");
            return Err(Failure::new(
                Exit::Software,
                what,
                "read its log, and report it",
            ));
        }
        let status = operator.status().await?;
        let linked = status
            .peers
            .iter()
            .filter(|peer| !peer.transport.is_empty());
        let details = linked.map(|peer| {
            let hop = peer.peer.clone().unwrap_or_default();
            format!(
                "{}/{} is connected over {}",
                hop.party, hop.role, peer.transport
            )
        });
        steps.done(
            "One ciphertext crossed to Grand Dijon, for two recipients",
            details.collect(),
        )
    }

    async fn send_report(
        &self,
        table: PackageId,
        watches: &mut Watches,
        steps: &mut Steps<'_, '_>,
    ) -> Result<(PackageId, PathBuf), Failure> {
        steps.begin("Grand Dijon sends its report back");
        let source = self.laboratory.dir.join("rapport.md");
        let text = format!(
            "# Observatoire de la cohésion sociale\n\nRapport d'essai, établi à partir de la \
             livraison\n{table}.\n"
        );
        fs::write(&source, text).map_err(|error| Failure::writing(&source, &error))?;
        let parcel = Parcel {
            source,
            flow: "rapport".into(),
            title: Some("Rapport de l'observatoire".into()),
            parents: vec![table.to_string()],
            ..Parcel::default()
        };
        let deadline = Watch::within(STEP_MAX);
        drop_into(
            &self.party(PARTNER)?.agent.directory.join("outbox"),
            &parcel,
        )?;
        let (report, _) = watches.partner.until("sealing", deadline, sealed).await?;
        let place = watches
            .caf
            .until("receiving", deadline, |e| received(e, report))
            .await?;
        let delivered = |event: &AgentEvent| finished(event, report);
        if !watches
            .partner
            .until("the receipts", deadline, delivered)
            .await?
        {
            return Err(late("the report ended without being delivered"));
        }
        let details = vec![
            format!("package {report}"),
            "signed with it: the id of the package that it was made from".into(),
        ];
        steps.done(
            "Grand Dijon sent a report back, and the CAF has it",
            details,
        )?;
        Ok((report, place))
    }

    async fn acknowledge(
        &self,
        report: PackageId,
        watches: &mut Watches,
        steps: &mut Steps<'_, '_>,
    ) -> Result<(), Failure> {
        steps.begin("the CAF acknowledges the report");
        let agent = &self.party(PRODUCER)?.agent;
        let mut client = AgentClient::new(channel(&agent.socket).await?);
        let comment = "Rapport bien reçu".to_owned();
        let request = AcknowledgeRequest {
            id: report.to_string(),
            comment,
        };
        client
            .acknowledge(request)
            .await
            .map_err(|status| refused(&status))?;
        let deadline = Watch::within(STEP_MAX);
        let acknowledged = |event: &AgentEvent| match event {
            AgentEvent::Stated {
                package,
                what: What::Acknowledged(said),
                ..
            } if *package == report => Some(said.comment.clone()),
            _ => None,
        };
        let comment = watches
            .partner
            .until("the acknowledgement", deadline, acknowledged)
            .await?;
        let details = vec![format!("Grand Dijon holds its signature: “{comment}”")];
        steps.done("The CAF acknowledged the report", details)
    }

    /// Waits until both logs are cosigned beyond these packages, then verifies both.
    async fn verify_logs(
        &self,
        packages: &[PackageId],
        steps: &mut Steps<'_, '_>,
    ) -> Result<(), Failure> {
        let (caf, partner) = (self.party(PRODUCER)?, self.party(PARTNER)?);
        for (owner, other) in [(caf, partner), (partner, caf)] {
            steps.begin(format_args!("{} cosigns the log of {}", other.id, owner.id));
            let mut operator = Operator::connect(gateway_of(owner)?).await?;
            let mut size = 0;
            for package in packages {
                let answer = operator.package(&package.to_string()).await?;
                let indices = answer.records.iter().map(|record| record.index + 1);
                size = indices.fold(size, u64::max);
            }
            operator.cosigned(size, COSIGN_MAX).await?;
            let (owner_now, other_now) = (owner.clone(), other.clone());
            let work = move || proof::believe_log(&owner_now, &other_now, size);
            let verdict = tokio::task::spawn_blocking(work).await;
            let verdict = verdict.map_err(|_| late("the verification was interrupted"))??;
            let signatures = verdict.signatures.unwrap_or(0);
            let details = vec![
                format!("{} entries hash to the root that it signed", verdict.size),
                format!("{signatures} manifests and statements in it are signed as they say"),
                format!(
                    "{} has cosigned all {size} entries that matter here",
                    other.id
                ),
            ];
            let says = format!(
                "The log of {} was verified against {}'s copy",
                owner.id, other.id
            );
            steps.done(says, details)?;
        }
        Ok(())
    }

    fn look_around(&self) -> Vec<String> {
        let mut commands = Vec::new();
        for party in &self.laboratory.parties {
            let agent = party.agent.config.display();
            commands.push(format!("passerelle queue --config {agent}"));
            if let Some(gateway) = &party.gateway {
                let config = gateway.config.display();
                commands.push(format!("passerelle status --config {config}"));
            }
        }
        if let Some(gateway) = self
            .laboratory
            .parties
            .iter()
            .find_map(|p| p.gateway.as_ref())
        {
            let config = gateway.config.display();
            commands.push(format!("passerelle audit log --config {config}"));
        }
        commands
    }
}

/// The news of the three agents.
struct Watches {
    caf: Watch,
    partner: Watch,
    contractor: Watch,
}

fn sealed(event: &AgentEvent) -> Option<(PackageId, u64)> {
    match event {
        AgentEvent::Sealed {
            package,
            sealed_bytes,
            ..
        } => Some((*package, *sealed_bytes)),
        _ => None,
    }
}

fn received(event: &AgentEvent, wanted: PackageId) -> Option<PathBuf> {
    match event {
        AgentEvent::Received {
            package,
            path: Some(path),
            ..
        } if *package == wanted => Some(path.clone()),
        _ => None,
    }
}

fn finished(event: &AgentEvent, wanted: PackageId) -> Option<bool> {
    match event {
        AgentEvent::Finished {
            package, delivered, ..
        } if *package == wanted => Some(*delivered),
        _ => None,
    }
}

fn event_of(record: &LogRecord) -> Option<Event> {
    Entry::decode(record.entry.as_slice()).ok()?.event
}

//! A statement that is dropped on its way shows, is asked for, and comes.

use std::fs;
use std::path::PathBuf;

use passerelle_disk::FileCursor;
use passerelle_proto::v1::{self, Lane, Signed, frame, statement::What};
use passerelle_proto::{
    Digest, PackLayout, PackageId, Role, StatementChain, StatementDraft, statement_name,
};
use passerelle_tests::{
    CAF_AGENT, CAF_GATEWAY, DIJON_AGENT, DIJON_GATEWAY, Judges, LIMIT, Rogue, RunningLab,
    eventually, now, quick_options,
};

const FLOW: &str = "signalement";

/// A word of Dijon's gateway to the CAF: it has handed the package on.
fn forwarded(lab: &RunningLab, package: PackageId, chain: &mut StatementChain) -> Signed {
    let draft = StatementDraft {
        issuer: lab.party("grand-dijon").id.clone(),
        destination: lab.party("caf21").id.clone(),
        package,
        at: now(),
        what: What::Forwarded(v1::Forwarded {
            recipient: "grand-dijon".into(),
            tls_name: "agent.grand-dijon.example".into(),
        }),
    };
    draft.sign(&lab.signing_key("grand-dijon", Role::Gateway), chain)
}

/// The package that the CAF's agent has sealed.
fn sealed(lab: &RunningLab) -> PackageId {
    let work = lab.party("caf21").agent.directory.join("work");
    let file: PathBuf = eventually("the sealed package", LIMIT, || {
        let jobs = fs::read_dir(&work).ok()?;
        let mut packages = jobs.map(|job| job.unwrap().path().join("package"));
        packages.find(|package| package.is_file())
    });
    let file = passerelle_disk::system().open(&file).unwrap();
    let (_, signed) = PackLayout::read(&mut FileCursor::new(file)).unwrap();
    PackageId(Digest::of(&signed.body))
}

fn warning(lab: &RunningLab) -> Option<String> {
    let status = lab.ask(CAF_GATEWAY, &["status"])?;
    Some(status["missing_warning"].as_str()?.to_owned())
}

fn missing(lab: &RunningLab) -> Option<u64> {
    let page = lab.metrics(CAF_GATEWAY);
    let name = "passerelle_missing_statements{";
    let line = page.lines().find(|line| line.starts_with(name))?;
    line.rsplit(' ').next()?.parse().ok()
}

#[test]
fn a_dropped_statement_raises_an_alert_is_asked_for_and_ends_the_alert_when_it_comes() {
    let mut lab = RunningLab::make(&quick_options());
    lab.run(CAF_GATEWAY);
    lab.run(CAF_AGENT);
    lab.drop_file("caf21", FLOW, "t.csv", b"a;b\n");
    let package = sealed(&lab);
    eventually("the package at the gateway", LIMIT, || {
        lab.ask(CAF_GATEWAY, &["package", "show", &package.to_string()])
    });
    let mut dijon = Rogue::dial(&lab, "grand-dijon", Role::Gateway, "caf21", Lane::Control);
    let mut chain = StatementChain::default();
    let said: Vec<Signed> = (0..3)
        .map(|_| forwarded(&lab, package, &mut chain))
        .collect();
    dijon.say(frame::Frame::Statement(said[0].clone()));
    dijon.say(frame::Frame::Statement(said[2].clone()));
    let asked = loop {
        if let What::Inquire(asked) = dijon.statement() {
            break asked;
        }
    };
    assert_eq!((asked.first, asked.last), (2, 2));
    assert_eq!(
        (asked.issuer.as_str(), asked.role.as_str()),
        ("grand-dijon", "gateway")
    );
    assert_eq!(asked.destination, "caf21");
    let words = "statement 2 of grand-dijon/gateway to caf21 has not come";
    assert_eq!(warning(&lab).unwrap(), words);
    eventually("the alert", LIMIT, || {
        (missing(&lab) == Some(1)).then_some(())
    });
    dijon.say(frame::Frame::Statement(said[1].clone()));
    eventually("the end of the alert", LIMIT, || {
        (missing(&lab) == Some(0) && warning(&lab)?.is_empty()).then_some(())
    });
    let package = package.to_string();
    Judges::of(&lab).believe(&lab, CAF_GATEWAY, &package, &["inquire", "forwarded"]);
}

/// Asks Dijon's gateway, as the CAF's, for what its party has said.
fn ask(lab: &RunningLab, caf: &mut Rogue, package: PackageId, role: &str, to: &str) {
    let draft = StatementDraft {
        issuer: lab.party("caf21").id.clone(),
        destination: lab.party("grand-dijon").id.clone(),
        package,
        at: now(),
        what: What::Inquire(v1::Inquire {
            issuer: "grand-dijon".into(),
            role: role.into(),
            destination: to.into(),
            first: 1,
            last: 256,
        }),
    };
    let signed = draft.sign_unnumbered(&lab.signing_key("caf21", Role::Gateway));
    caf.say(frame::Frame::Statement(signed));
}

#[test]
fn whoever_asks_gets_all_that_is_stored_for_it_again_and_nothing_that_is_said_to_others() {
    let mut lab = RunningLab::make(&quick_options());
    for process in [CAF_GATEWAY, CAF_AGENT, DIJON_GATEWAY, DIJON_AGENT] {
        lab.run(process);
    }
    lab.drop_file("caf21", FLOW, "t.csv", b"a;b\n");
    let package = sealed(&lab);
    lab.sent("caf21");
    lab.stop(CAF_GATEWAY);
    let mut caf = Rogue::dial(&lab, "caf21", Role::Gateway, "grand-dijon", Lane::Control);
    ask(&lab, &mut caf, package, "gateway", "prestataire-obs");
    let printed = || fs::read_to_string(lab.log(DIJON_GATEWAY)).unwrap();
    eventually("the refusal", LIMIT, || {
        printed()
            .contains("it asks for what is not said to it")
            .then_some(())
    });
    ask(&lab, &mut caf, package, "gateway", "caf21");
    let first = [caf.statement(), caf.statement()];
    assert_eq!(
        first.each_ref().map(statement_name),
        ["accepted", "forwarded"]
    );
    // Too soon once more: it is left aside, and asked again later.
    ask(&lab, &mut caf, package, "agent", "caf21");
    eventually("the second inquiry", LIMIT, || {
        printed().contains("it asks too often").then_some(())
    });
    // What is asked outside of any sequence is proof as well.
    let package = package.to_string();
    Judges::of(&lab).believe(&lab, DIJON_GATEWAY, &package, &["inquire", "delivered"]);
}

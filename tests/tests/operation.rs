//! What an operator meets: configurations, memory, other people's clients.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use passerelle_tests::{
    CAF_AGENT, CAF_GATEWAY, DIJON_AGENT, DIJON_GATEWAY, LIMIT, Program, RunningLab, eventually,
    noise, quick_options,
};

const FLOW: &str = "observation-iris";
/// `EX_CONFIG` of sysexits.h.
const EXIT_CONFIG: i32 = 78;
/// Peak of resident memory that each process stays under, in bytes.
const MEMORY_MAX: u64 = 128 * 1024 * 1024;

#[test]
fn every_mistake_of_a_configuration_is_reported_at_once_with_file_line_and_remedy() {
    let lab = RunningLab::make(&quick_options());
    for (program, process, line) in [
        (Program::Gateway, CAF_GATEWAY, &["--config"][..]),
        (
            Program::Passerelle,
            CAF_AGENT,
            &["agent", "run", "--config"],
        ),
    ] {
        let config = lab.config(process);
        let text = fs::read_to_string(&config).unwrap();
        let wrong = text
            .replace("transport = \"auto\"", "transport = \"pigeon\"\nspeed = 3")
            .replace("[tls]\ncertificate", "[tls]\ncertificat");
        let file = config.with_extension("wrong.toml");
        fs::write(&file, wrong).unwrap();
        let mut arguments = line.to_vec();
        arguments.push(file.to_str().unwrap());
        let output = program.run(&arguments);
        let printed = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(EXIT_CONFIG), "{printed}");
        for part in ["pigeon", "speed", "certificat", "certificate is missing"] {
            assert!(printed.contains(part), "{part} in\n{printed}");
        }
        let name = file.file_name().unwrap().to_str().unwrap();
        assert!(printed.contains(&format!("{name}:")), "{printed}");
    }
}

#[test]
fn secrets_that_others_can_read_and_keys_that_were_altered_are_refused() {
    let lab = RunningLab::make(&quick_options());
    let keys = lab.party("caf21").directory.join("keys");
    let config = lab.config(CAF_GATEWAY);
    let check = || {
        let output = Program::Gateway.run(["--check", "--config", config.to_str().unwrap()]);
        let printed = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), printed)
    };
    assert_eq!(check().0, Some(0), "{}", check().1);
    let key = keys.join("gateway.secret");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
    let (code, printed) = check();
    assert_eq!(code, Some(EXIT_CONFIG));
    assert!(printed.contains("chmod 600"), "{printed}");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let text = fs::read_to_string(&key).unwrap();
    // The fifth part is the secret itself; there may be more signs of that kind in it.
    let (before, _) = text.match_indices('+').nth(3).unwrap();
    let (head, seed) = text.split_at(before + 1);
    let first = if seed.starts_with('A') { "B" } else { "A" };
    fs::write(&key, format!("{head}{first}{}", &seed[1..])).unwrap();
    let (code, printed) = check();
    assert_eq!(code, Some(EXIT_CONFIG));
    assert!(printed.contains("fingerprint"), "{printed}");
}

#[test]
fn memory_stays_bounded_during_a_package_of_one_gibibyte() {
    let mut lab = RunningLab::make(&quick_options());
    for process in [CAF_GATEWAY, DIJON_GATEWAY, CAF_AGENT, DIJON_AGENT] {
        lab.run(process);
    }
    let outbox = lab.party("caf21").agent.directory.join("outbox").join(FLOW);
    eventually("the outbox", LIMIT, || outbox.is_dir().then_some(()));
    let folder = outbox.join(".package");
    fs::create_dir(&folder).unwrap();
    let block = noise(64 * 1024 * 1024, 7);
    {
        use std::io::Write;
        let mut file = fs::File::create(folder.join("large.bin")).unwrap();
        for _ in 0..16 {
            file.write_all(&block).unwrap();
        }
    }
    fs::write(
        folder.join("package.toml"),
        "recipients = [\"grand-dijon\"]\n",
    )
    .unwrap();
    fs::rename(&folder, outbox.join("package")).unwrap();
    let file = eventually("the package", LIMIT * 3, || {
        lab.received("grand-dijon", FLOW, "large.bin").pop()
    });
    assert_eq!(fs::metadata(file).unwrap().len(), 1 << 30);
    for process in [CAF_AGENT, CAF_GATEWAY, DIJON_GATEWAY, DIJON_AGENT] {
        let peak = lab.process(process).peak_resident_bytes();
        assert!(peak < MEMORY_MAX, "{process:?}: {} MiB", peak >> 20);
    }
}

/// A Python with the packages of `interop/requirements.txt`; CI makes one.
fn python() -> String {
    std::env::var("PASSERELLE_TEST_PYTHON").unwrap_or_else(|_| "python3".into())
}

#[test]
fn an_ordinary_grpc_client_asks_for_health_and_for_the_operators_status() {
    let mut lab = RunningLab::make(&quick_options());
    lab.run(DIJON_GATEWAY);
    let party = lab.party("grand-dijon").clone();
    let gateway = party.gateway.as_ref().unwrap();
    eventually("the socket", LIMIT, || {
        gateway.socket.exists().then_some(())
    });
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("interop/grpc_client.py");
    let tls = party.directory.join("tls");
    let output = Command::new(python())
        .arg(script)
        .args([
            "--address",
            &gateway.address.to_string(),
            "--name",
            &gateway.tls_name,
        ])
        .arg("--ca")
        .arg(&party.authority.0)
        .arg("--certificate")
        .arg(tls.join("agent.pem"))
        .arg("--key")
        .arg(tls.join("agent.key"))
        .arg("--socket")
        .arg(&gateway.socket)
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{printed}");
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["health"], "SERVING");
    assert_eq!(answer["admin"]["party"], "grand-dijon");
}

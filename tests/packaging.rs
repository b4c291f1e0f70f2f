//! What goes with the binary into a package: the tool's other names, manual page, completions, and what systemd is told.

#![expect(
    clippy::unwrap_used,
    reason = "a test's helpers may unwrap like the test"
)]

mod support;

use std::{
    fs,
    os::unix::{fs::symlink, net::UnixDatagram},
    process::Command,
};

use support::*;

fn generated(kind: &str) -> String {
    let output = broker::bare_command()
        .args(["generate", kind])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn manual_page_and_completions_know_the_commands() {
    assert!(generated("man").contains(".TH mambamq 1"));
    for shell in ["bash", "zsh", "fish"] {
        assert!(generated(shell).contains("check-config"), "{shell}");
    }
}

#[test]
fn the_binary_answers_to_the_names_of_rabbitmqs_tools() {
    let folder = broker::fresh_folder();
    let binary = broker::bare_command().get_program().to_owned();
    for name in ["rabbitmqctl", "rabbitmq-diagnostics"] {
        let tool = folder.join(name);
        symlink(&binary, &tool).unwrap();
        let output = Command::new(tool)
            .args(["--data-dir", broker::shared().folder().to_str().unwrap()])
            .args(["-q", "list_vhosts"])
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "name\n/\n");
    }
}

#[test]
fn systemd_hears_of_readiness_reload_and_stop() {
    let folder = broker::fresh_folder();
    let path = folder.join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(client::PATIENCE)).unwrap();
    let said = || {
        let mut buffer = [0; 256];
        let octets = socket.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..octets]).into_owned()
    };
    let data = folder.join("data");
    fs::create_dir(&data).unwrap();
    let mut child = broker::command(&data)
        .args(["--listen", "127.0.0.1:0", "--metrics-listen", "off"])
        .env("NOTIFY_SOCKET", &path)
        .spawn()
        .unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    let signal = |signal| rustix::process::kill_process(pid, signal).unwrap();
    assert_eq!(said(), "READY=1\n");
    signal(rustix::process::Signal::HUP);
    let reloading = said();
    assert!(
        reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="),
        "{reloading}"
    );
    assert_eq!(said(), "READY=1\n");
    signal(rustix::process::Signal::TERM);
    assert_eq!(said(), "STOPPING=1\n");
    assert!(child.wait().unwrap().success());
}

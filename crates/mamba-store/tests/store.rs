//! The data folder on the real disk: locking, refusals, definitions, epochs.
#![expect(
    clippy::unwrap_used,
    reason = "a test's helpers may unwrap like the test"
)]

mod support;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::{Arc, mpsc},
    thread::{self, ThreadId},
};

use mamba_store::{
    BindingDefinition, DefinitionChange, DestinationKind, ExchangeDefinition, OpenError,
    PermissionDefinition, QueueDefinition, RealDisk, Recovered, Store, StoreConfig, StoreError,
};
use mamba_types::QueueId;
use support::{message, read_back, run_of};

fn open(dir: &Path) -> Result<(Store, Recovered), OpenError> {
    Store::open(StoreConfig::new(dir), Arc::new(RealDisk::new()))
}

fn queue(name: &str, id: QueueId) -> QueueDefinition {
    QueueDefinition {
        vhost: "/".to_owned(),
        name: name.to_owned(),
        id,
        auto_delete: false,
        arguments: vec![0, 1, 254, 255],
    }
}

fn exchange(name: &str) -> ExchangeDefinition {
    ExchangeDefinition {
        vhost: "/".to_owned(),
        name: name.to_owned(),
        kind: "topic".to_owned(),
        auto_delete: true,
        internal: false,
        id: Some(QueueId(5)),
        arguments: Vec::new(),
    }
}

fn binding(key: &str) -> BindingDefinition {
    BindingDefinition {
        vhost: "/".to_owned(),
        source: "x".to_owned(),
        destination_kind: DestinationKind::Queue,
        destination: "q".to_owned(),
        binding_key: key.to_owned(),
        arguments: vec![7],
    }
}

fn submit(store: &Store, changes: Vec<DefinitionChange>) -> Result<(), StoreError> {
    let (tell, told) = mpsc::channel();
    store
        .definitions()
        .submit(changes, Box::new(move |result| tell.send(result).unwrap()));
    told.recv().unwrap()
}

#[test]
fn everything_comes_back_and_the_epoch_counts() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("new/data");
    let (store, recovered) = open(&dir).unwrap();
    assert_eq!(store.epoch(), 1);
    assert!(recovered.report.clean);
    let node = store.node_id();
    let id = store.definitions().next_queue_id();
    let changes = vec![
        DefinitionChange::put(&exchange("x")),
        DefinitionChange::put(&exchange("gone")),
        DefinitionChange::put(&queue("q", id)),
        DefinitionChange::put(&binding("a.#")),
        DefinitionChange::put(&binding("b")),
        DefinitionChange::delete(&binding("b")),
        DefinitionChange::delete(&exchange("gone")),
    ];
    submit(&store, changes).unwrap();
    let body = [message(b"body")];
    let chunk = store.log().append_messages(body[0].record().clone());
    let run = run_of(store.epoch() << 40, chunk.at(), &body);
    store.log().append_enqueued(id, &[run]);
    drop(chunk);
    assert!(store.log().clean_stop());
    store.close();

    let (store, recovered) = open(&dir).unwrap();
    assert_eq!((store.epoch(), store.node_id()), (2, node));
    assert!(recovered.report.clean);
    assert_eq!(recovered.definitions.exchanges, [exchange("x")]);
    assert_eq!(recovered.definitions.queues, [queue("q", id)]);
    assert_eq!(recovered.definitions.bindings, [binding("a.#")]);
    let (messages, _) = read_back(store.log(), &recovered, id);
    assert_eq!(messages[0].sequence, 1 << 40);
    assert_eq!(messages[0].message.body(), b"body");
    assert!(!messages[0].redelivered);
    assert_ne!(store.definitions().next_queue_id(), id);
    // A deleted queue's messages go with it.
    submit(&store, vec![DefinitionChange::delete(&queue("q", id))]).unwrap();
    store.close();
    let (_store, recovered) = open(&dir).unwrap();
    assert!(recovered.queues.is_empty());
    assert_eq!(recovered.report.unknown_queue, 1);
}

#[test]
fn submissions_are_answered_in_order_and_none_is_lost_at_a_close() {
    let temp = tempfile::tempdir().unwrap();
    let (store, _) = open(temp.path()).unwrap();
    let (tell, told) = mpsc::channel();
    for number in 0..200u32 {
        let tell = tell.clone();
        let id = store.definitions().next_queue_id();
        store.definitions().submit(
            vec![DefinitionChange::put(&queue(&number.to_string(), id))],
            Box::new(move |result| tell.send((number, result.is_ok())).unwrap()),
        );
    }
    drop(tell);
    let definitions = store.definitions().clone();
    store.close();
    let answers: Vec<_> = told.iter().collect();
    let expected: Vec<_> = (0..200).map(|number| (number, true)).collect();
    assert_eq!(answers, expected);
    let (tell, told) = mpsc::channel();
    definitions.submit(
        Vec::new(),
        Box::new(move |result| tell.send(result).unwrap()),
    );
    assert!(matches!(told.recv().unwrap(), Err(StoreError::Closed)));
    let (_store, recovered) = open(temp.path()).unwrap();
    assert_eq!(recovered.definitions.queues.len(), 200);
}

#[test]
fn a_second_opener_is_told_who_holds_the_folder() {
    let temp = tempfile::tempdir().unwrap();
    let (store, _) = open(temp.path()).unwrap();
    let error = open(temp.path()).unwrap_err();
    let OpenError::Locked { pid, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(*pid, Some(std::process::id()));
    let text = error.to_string();
    assert!(text.contains(&temp.path().display().to_string()), "{text}");
    store.close();
    open(temp.path()).unwrap();
}

#[test]
fn the_lock_file_publishes_addresses_and_is_emptied() {
    let temp = tempfile::tempdir().unwrap();
    let (store, _) = open(temp.path()).unwrap();
    let lock = temp.path().join("node.lock");
    let pid = format!("pid {}\n", std::process::id());
    assert_eq!(fs::read_to_string(&lock).unwrap(), pid);
    let lines = [
        ("amqp", "127.0.0.1:5672"),
        ("amqp", "[::1]:5672"),
        ("metrics", "127.0.0.1:9"),
    ];
    store.lock().publish(&lines).unwrap();
    let expected = "amqp 127.0.0.1:5672\namqp [::1]:5672\nmetrics 127.0.0.1:9\n";
    assert_eq!(fs::read_to_string(&lock).unwrap(), pid + expected);
    store.close();
    assert_eq!(fs::read_to_string(&lock).unwrap(), "");
}

#[track_caller]
fn check_refused(dir: &Path, expected: &str) {
    let text = open(dir).unwrap_err().to_string();
    assert!(text.contains(expected), "{text}");
    assert!(text.contains(&dir.display().to_string()), "{text}");
}

#[test]
fn what_is_not_ours_is_refused_and_left_alone() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("file");
    fs::write(&file, b"x").unwrap();
    check_refused(&file, "not a folder");
    check_refused(&file.join("below"), "not a folder");
    check_refused(temp.path(), "\"file\"");
    assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1);

    let ours = temp.path().join("ours");
    open(&ours).unwrap().0.close();
    fs::write(ours.join("format"), "mambamq data folder, format 9\n").unwrap();
    check_refused(&ours, "format 9");
    fs::write(ours.join("format"), "something else").unwrap();
    check_refused(&ours, "\"format\"");
    fs::write(ours.join("format"), "mambamq data folder, for").unwrap();
    open(&ours).unwrap().0.close();
    fs::write(ours.join("definitions.redb"), "garbage").unwrap();
    check_refused(&ours, "backup");
}

#[test]
fn a_folder_without_permission_says_so() {
    if rustix::process::geteuid().is_root() {
        return; // Nothing is forbidden to root.
    }
    let temp = tempfile::tempdir().unwrap();
    fs::set_permissions(temp.path(), fs::Permissions::from_mode(0o500)).unwrap();
    check_refused(temp.path(), "no permission");
}

#[test]
fn what_belongs_to_a_virtual_host_goes_together() {
    let temp = tempfile::tempdir().unwrap();
    let (store, _) = open(temp.path()).unwrap();
    let permission = |vhost: &str, user: &str| PermissionDefinition {
        vhost: vhost.to_owned(),
        user: user.to_owned(),
        ..PermissionDefinition::default()
    };
    let kept = [permission("a", "u"), permission("bb", "u")];
    let all = [
        &kept[0],
        &permission("b", "u"),
        &permission("b", "v"),
        &kept[1],
    ];
    let puts = all.into_iter().map(DefinitionChange::put).collect();
    store.definitions().begin(puts).wait().unwrap();
    let gone = DefinitionChange::delete_all::<PermissionDefinition>(&[b"b"]);
    store.definitions().begin(vec![gone]).wait().unwrap();
    store.close();
    let (_store, recovered) = open(temp.path()).unwrap();
    assert_eq!(recovered.definitions.permissions, kept);
}

/// Submits a definition and says on which thread it was answered.
fn answered_on(store: &Store, definition: &ExchangeDefinition) -> mpsc::Receiver<ThreadId> {
    let (tell, told) = mpsc::channel();
    let done = move |result: Result<(), StoreError>| {
        result.unwrap();
        tell.send(thread::current().id()).unwrap();
    };
    let changes = vec![DefinitionChange::put(definition)];
    store.definitions().submit(changes, Box::new(done));
    told
}

/// Whoever is alone commits what it submits itself, unless the thread is at it; nobody waits for ever, whatever it does.
#[test]
fn definitions_are_committed_where_they_are_submitted() {
    let temp = tempfile::tempdir().unwrap();
    let (store, _) = open(temp.path()).unwrap();
    let definitions = store.definitions().clone();
    let me = thread::current().id();
    let mut names = Vec::new();
    let mut next = || {
        names.push(format!("x-{:03}", names.len()));
        exchange(names.last().unwrap())
    };
    let mut here = 0;
    for _ in 0..100 {
        let commit = definitions.commit_here().unwrap();
        assert!(definitions.commit_here().is_none(), "it does so already");
        let told = answered_on(&store, &next());
        commit.commit();
        drop(commit);
        here += u32::from(told.recv().unwrap() == me);
    }
    assert!(
        here > 0,
        "a slow disk is left to the thread, but not this one"
    );

    // Who does not commit wakes the thread in the end, ...
    let commit = definitions.commit_here().unwrap();
    let told = answered_on(&store, &next());
    drop(commit);
    assert_ne!(told.recv().unwrap(), me);

    // ... others do so at once, ...
    let commit = definitions.commit_here().unwrap();
    let told = answered_on(&store, &next());
    let another = next();
    thread::scope(|scope| {
        let other = scope.spawn(|| answered_on(&store, &another).recv().unwrap());
        assert_ne!(other.join().unwrap(), me);
    });
    assert_ne!(told.recv().unwrap(), me);
    drop(commit);

    // ... and so does whoever waits where it stands.
    let commit = definitions.commit_here().unwrap();
    let told = answered_on(&store, &next());
    definitions.flush();
    assert_ne!(told.recv().unwrap(), me);
    let change = DefinitionChange::put(&next());
    definitions.begin(vec![change]).wait().unwrap();
    drop(commit);

    drop((definitions, store));
    let (_store, recovered) = open(temp.path()).unwrap();
    let stored = recovered.definitions.exchanges;
    assert!(stored.iter().map(|exchange| &exchange.name).eq(&names));
}

//! What a copy of a sound tree brings, both ways.

use std::ffi::OsStr;
use std::os::unix::fs::symlink;
use std::sync::Mutex;

use super::super::wire::ErrorCode;
use super::*;

/// 2,000 small files over 50 directories, one deep chain, empty files and directories, many modes and
/// times, links of every sort, names with spaces, quotes, line breaks and octets that are no UTF-8
fn grow(root: &Path) {
    for directory in 0..50 {
        let directory_path = root.join(format!("directory {directory}"));
        fs::create_dir_all(&directory_path).unwrap();
        for file in 0..40_u64 {
            let path = directory_path.join(format!("file-{file}"));
            write(&path, pattern((file * 97) as usize % 5_000, directory * 100 + file));
            mode(&path, [0o644, 0o600, 0o755, 0o444, 0o640][file as usize % 5]);
            set_modified(&path, 1_500_000_000 + file * 1_000, (file * 1_234_567) as u32);
        }
    }
    let deep = root.join("d/".repeat(60));
    fs::create_dir_all(&deep).unwrap();
    write(&deep.join("bottom"), "reached");
    fs::create_dir(root.join("empty")).unwrap();
    mode(&root.join("empty"), 0o1750);
    let odd = root.join(OsStr::from_bytes(b"odd \xff\xfe \"'\n"));
    fs::create_dir(&odd).unwrap();
    write(&odd.join(OsStr::from_bytes(b"\x80")), "octets");
    write(&odd.join("x".repeat(255)), "long");
    symlink("directory 0/file-1", root.join("to-file")).unwrap();
    symlink("nowhere/at all", root.join("dangling")).unwrap();
    symlink("/etc", root.join("absolute")).unwrap();
    write(&root.join("large"), pattern(9_000_000, 5));
    set_modified(&root.join("empty"), 1_400_000_000, 7);
    set_modified(root, 1_300_000_000, 9);
}

const FILES: u64 = 2_000 + 1 + 2 + 1;

#[tokio::test]
async fn a_pushed_tree_is_the_same_tree_and_a_second_push_moves_nothing() {
    let room = Room::new();
    grow(&room.own("tree"));
    let (ours, theirs) = room.push("tree", "").await;
    let (ours, theirs) = (ours.unwrap(), theirs.unwrap());
    assert_eq!((ours.files_verified, ours.symlinks, ours.failed), (FILES, 3, 0));
    assert_eq!(ours.bytes_transferred, ours.bytes_in_place);
    assert_eq!(theirs.bytes_transferred, ours.bytes_transferred);
    let seen = look(&room.own("tree"));
    assert_eq!(look(&room.served("tree")), seen);
    assert_eq!(ours.directories as usize, seen.iter().filter(|s| s.kind == 0o040_000).count());

    let again = room.push("tree", "").await.0.unwrap();
    assert_eq!((again.files_unchanged, again.files_verified), (FILES, 0));
    assert_eq!(again.bytes_transferred, 0);
    assert_eq!(look(&room.served("tree")), seen);
}

#[tokio::test]
async fn a_pulled_tree_is_the_same_tree_and_progress_ends_at_the_totals() {
    let room = Room::new();
    grow(&room.served("tree"));
    let reports = Mutex::new(Vec::new());
    // A flow far smaller than any file: back-pressure at every step.
    let (near, far) = tokio::io::duplex(700);
    let roots = room.roots();
    let (destination, remote) = (room.own("new name"), room.served("tree"));
    let (ours, theirs) = tokio::join!(
        pull(near, remote.to_str().unwrap(), &destination, Options::default(), |progress| {
            reports.lock().unwrap().push(progress);
        }),
        serve(far, &roots, Permission { read: true, write: false })
    );
    assert_eq!(ours.unwrap().files_verified, FILES);
    assert_eq!(theirs.unwrap().files_verified, FILES);
    assert_eq!(look(&destination), look(&remote));
    let reports = reports.into_inner().unwrap();
    let last: &Progress = reports.last().unwrap();
    assert_eq!((last.files_done, last.files_total), (FILES, FILES));
    assert_eq!((last.bytes_done, last.bytes_transferred), (last.bytes_total, last.bytes_total));
    let grows = |of: fn(&Progress) -> u64| reports.is_sorted_by_key(of);
    assert!(grows(|p| p.bytes_done) && grows(|p| p.files_done) && reports.len() > 10);
}

#[tokio::test]
async fn destinations_mean_what_they_mean_to_cp() {
    let room = Room::new();
    write(&room.own("file"), "content");
    fs::create_dir(room.own("tree")).unwrap();
    write(&room.own("tree/inside"), "inside");
    fs::create_dir(room.served("there")).unwrap();

    room.push("file", "new").await.0.unwrap();
    room.push("file", "there").await.0.unwrap();
    room.push("tree", "named").await.0.unwrap();
    room.push("tree", "there/").await.0.unwrap();
    room.push("tree/.", "there").await.0.unwrap();
    room.push("tree", "fresh/").await.0.unwrap();
    write(&room.own("file"), "changed");
    room.push("file", "new").await.0.unwrap();
    assert_eq!(fs::read(room.served("new")).unwrap(), b"changed");
    for path in ["there/file", "named/inside", "there/tree/inside", "there/inside", "fresh/inside"]
    {
        assert!(room.served(path).is_file(), "{path}");
    }

    room.pull("there/tree", "pulled").await.0.unwrap();
    room.pull("there/tree/inside", ".").await.0.unwrap();
    room.pull("there/.", "pulled").await.0.unwrap();
    for path in ["pulled/inside", "inside", "pulled/tree/inside", "pulled/file"] {
        assert!(room.own(path).is_file(), "{path}");
    }
}

fn only_problem(result: Result) -> (String, ErrorCode) {
    let Err(CopyError::Incomplete(summary)) = result else { panic!("not incomplete: {result:?}") };
    assert_eq!((summary.failed, summary.problems.len()), (1, 1));
    (summary.problems[0].path.clone(), summary.problems[0].code)
}

fn refusal(result: Result) -> ErrorCode {
    match result {
        Err(CopyError::Peer { code, .. } | CopyError::Refused { code, .. }) => code,
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test]
async fn what_cp_refuses_is_refused_by_name() {
    let room = Room::new();
    write(&room.own("file"), "content");
    fs::create_dir_all(room.own("tree/sub")).unwrap();
    fs::create_dir_all(room.served("there/file")).unwrap();
    fs::create_dir_all(room.served("there/tree")).unwrap();
    write(&room.served("there/tree/sub"), "not a directory");

    let (ours, theirs) = room.push("file", "there").await;
    assert_eq!(only_problem(ours), (".".into(), ErrorCode::IsADirectory));
    assert_eq!(only_problem(theirs).1, ErrorCode::IsADirectory);
    let Err(CopyError::Incomplete(summary)) = room.push("tree", "there").await.0 else { panic!() };
    assert_eq!(summary.problems[0].path, "sub");
    assert_eq!(summary.problems[0].code, ErrorCode::NotADirectory);
    let (ours, _) = room.push("file", "absent/").await;
    assert_eq!(only_problem(ours).1, ErrorCode::NotADirectory);
    assert_eq!(refusal(room.push("file", "no/where").await.0), ErrorCode::NotFound);
    assert_eq!(refusal(room.pull("nothing", ".").await.0), ErrorCode::NotFound);
    assert!(matches!(room.push("none", "x").await.0, Err(CopyError::Local { .. })));
}

#[tokio::test]
async fn special_files_are_named_and_the_rest_is_copied() {
    let room = Room::new();
    fs::create_dir(room.own("tree")).unwrap();
    write(&room.own("tree/good"), "good");
    let _socket = std::os::unix::net::UnixListener::bind(room.own("tree/socket")).unwrap();
    let (ours, theirs) = room.push("tree", "").await;
    let Err(CopyError::Incomplete(ours)) = ours else { panic!("{ours:?}") };
    assert_eq!((ours.files_verified, ours.failed), (1, 1));
    assert_eq!(ours.problems[0].path, "socket");
    assert_eq!(ours.problems[0].code, ErrorCode::SpecialFile);
    assert!(ours.problems[0].text.contains("a socket"), "{}", ours.problems[0].text);
    assert_eq!(only_problem(theirs), ("socket".into(), ErrorCode::SpecialFile));
    assert_eq!(names(&room.served("tree")), ["good"]);
}

#[tokio::test]
async fn equal_size_and_time_suffice_unless_content_is_to_be_compared() {
    let room = Room::new();
    for (path, content) in [(room.own("file"), "right"), (room.served("file"), "wrong")] {
        write(&path, content);
        set_modified(&path, 1_000, 0);
    }
    mode(&room.own("file"), 0o640);
    let plain = room.push("file", "").await.0.unwrap();
    assert_eq!((plain.files_unchanged, plain.bytes_transferred), (1, 0));
    assert_eq!(fs::read(room.served("file")).unwrap(), b"wrong");
    assert_eq!(fs::metadata(room.served("file")).unwrap().mode() & 0o7777, 0o640);

    let verify = Options { verify_existing: true };
    let verified = room.push_with("file", "", verify).await.0.unwrap();
    assert_eq!((verified.files_verified, verified.bytes_transferred), (1, 5));
    assert_eq!(fs::read(room.served("file")).unwrap(), b"right");

    set_modified(&room.own("file"), 2_000, 3);
    let touched = room.push_with("file", "", verify).await.0.unwrap();
    assert_eq!((touched.files_unchanged, touched.bytes_transferred), (1, 0));
    assert_eq!(look(&room.served("file")), look(&room.own("file")));
}

#[tokio::test]
async fn nobody_reads_or_writes_without_permission() {
    let room = Room::new();
    write(&room.own("file"), "content");
    write(&room.served("secret"), "content");
    let roots = room.roots();
    let (near, far) = tokio::io::duplex(FLOW_BYTES);
    let (source, options) = (room.own("file"), Options::default());
    let (ours, theirs) = tokio::join!(
        push(near, &source, "x", options, |_| {}),
        serve(far, &roots, Permission { read: true, write: false })
    );
    assert_eq!(refusal(ours), ErrorCode::NotPermitted);
    assert_eq!(refusal(theirs), ErrorCode::NotPermitted);
    let (near, far) = tokio::io::duplex(FLOW_BYTES);
    let destination = room.own("stolen");
    let (ours, _) = tokio::join!(
        pull(near, "secret", &destination, options, |_| {}),
        serve(far, &roots, Permission { read: false, write: true })
    );
    assert_eq!(refusal(ours), ErrorCode::NotPermitted);
    assert_eq!(names(&room.served("")), ["secret"]);
    assert_eq!(names(&room.own("")), ["file"]);
}

#[tokio::test]
async fn no_path_leads_out_of_what_is_served() {
    let room = Room::new();
    write(&room.own("file"), "content");
    write(&room.own("outside"), "precious");
    symlink(room.own(""), room.served("escape")).unwrap();
    let climb = room.push("file", "a/../../own/outside").await.0;
    assert!(matches!(climb, Err(CopyError::RemotePath { .. })), "{climb:?}");
    let absolute = room.own("outside");
    let absolute = absolute.to_str().unwrap();
    assert_eq!(refusal(room.push("file", absolute).await.0), ErrorCode::OutsideRoots);
    assert_eq!(refusal(room.pull(absolute, "got").await.0), ErrorCode::OutsideRoots);
    assert_eq!(refusal(room.push("file", "escape/outside").await.0), ErrorCode::SymlinkInPath);
    assert_eq!(refusal(room.pull("escape/outside", "got").await.0), ErrorCode::SymlinkInPath);
    assert_eq!(refusal(room.pull("escape/", "got").await.0), ErrorCode::SymlinkInPath);
    // The link itself is what a path that ends at it means: read as a link, replaced as a link.
    room.pull("escape", "link").await.0.unwrap();
    assert!(room.own("link").is_symlink());
    room.push("file", "escape").await.0.unwrap();
    assert!(room.served("escape").is_file() && !room.served("escape").is_symlink());
    assert_eq!(fs::read(room.own("outside")).unwrap(), b"precious");
    assert_eq!(names(&room.own("")), ["file", "link", "outside"]);
}

#[tokio::test]
async fn transfers_may_run_as_tasks_of_their_own() {
    let room = Room::new();
    write(&room.own("file"), "content");
    let (near, far) = tokio::io::duplex(FLOW_BYTES);
    let (source, roots) = (room.own("file"), room.roots());
    let server = tokio::spawn(async move { serve(far, &roots, ALL).await });
    let client =
        tokio::spawn(async move { push(near, &source, "x", Options::default(), |_| {}).await });
    assert_eq!(client.await.unwrap().unwrap().files_verified, 1);
    assert_eq!(server.await.unwrap().unwrap().files_verified, 1);
}

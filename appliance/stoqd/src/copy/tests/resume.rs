//! Transfers that break off, and what the next one makes of what they left.

use super::super::partial;
use super::*;

const SIZE: usize = 40 << 20;

/// Pushes until `octets` were written, then the flow breaks
async fn broken_push(room: &Room, source: &str, octets: usize) {
    let (near, far) = tokio::io::duplex(FLOW_BYTES);
    let (source, roots) = (room.own(source), room.roots());
    let near = Breaking { flow: near, left: octets };
    let (ours, theirs) =
        tokio::join!(push(near, &source, "", Options::default(), |_| {}), serve(far, &roots, ALL));
    assert!(matches!(ours, Err(CopyError::Flow(_))), "{ours:?}");
    assert!(matches!(theirs, Err(CopyError::Truncated)), "{theirs:?}");
}

fn partial_of(room: &Room, name: &str) -> PathBuf {
    room.served(str::from_utf8(&partial::name_for(name.as_bytes())).unwrap())
}

#[tokio::test]
async fn a_broken_push_continues_where_it_stopped() {
    let room = Room::new();
    write(&room.own("big"), pattern(SIZE, 1));
    broken_push(&room, "big", SIZE / 2).await;
    assert!(!room.served("big").exists());
    let held = fs::metadata(partial_of(&room, "big")).unwrap().len();
    assert!(held > 0 && held < SIZE as u64 / 2, "{held}");

    let summary = room.push("big", "").await.0.unwrap();
    assert_eq!(summary.bytes_transferred, SIZE as u64 - held);
    assert_eq!((summary.files_verified, summary.bytes_in_place), (1, SIZE as u64));
    assert_eq!(look(&room.served("big")), look(&room.own("big")));
    assert_eq!(names(&room.served("")), ["big"]);
}

#[tokio::test]
async fn a_broken_pull_continues_where_it_stopped() {
    let room = Room::new();
    write(&room.served("big"), pattern(SIZE, 2));
    let (near, far) = tokio::io::duplex(FLOW_BYTES);
    let far = Breaking { flow: far, left: SIZE / 2 };
    let (destination, roots) = (room.own("big"), room.roots());
    let (ours, _) = tokio::join!(
        pull(near, "big", &destination, Options::default(), |_| {}),
        serve(far, &roots, ALL)
    );
    assert!(matches!(ours, Err(CopyError::Truncated)), "{ours:?}");
    let summary = room.pull("big", "big").await.0.unwrap();
    assert!((1..SIZE as u64 * 3 / 4).contains(&summary.bytes_transferred), "{summary:?}");
    assert_eq!(look(&destination), look(&room.served("big")));
    assert_eq!(names(&room.own("")), ["big"]);
}

#[tokio::test]
async fn a_broken_tree_copy_sends_only_what_is_missing() {
    let room = Room::new();
    fs::create_dir(room.own("tree")).unwrap();
    for file in 0..40 {
        write(&room.own("tree").join(format!("{file}")), pattern(500_000, file));
    }
    broken_push(&room, "tree", 10_000_000).await;
    let summary = room.push("tree", "").await.0.unwrap();
    assert!(summary.files_unchanged > 5, "{summary:?}");
    assert_eq!(summary.files_unchanged + summary.files_verified, 40);
    assert!(summary.bytes_transferred < 12_000_000, "{summary:?}");
    assert_eq!(look(&room.served("tree")), look(&room.own("tree")));
}

#[tokio::test]
async fn a_corrupted_remainder_starts_over() {
    let room = Room::new();
    write(&room.own("big"), pattern(SIZE, 3));
    broken_push(&room, "big", SIZE / 2).await;
    let path = partial_of(&room, "big");
    let mut held = fs::read(&path).unwrap();
    let middle = held.len() / 2;
    held[middle] ^= 1;
    write(&path, held);
    let summary = room.push("big", "").await.0.unwrap();
    assert_eq!(summary.bytes_transferred, SIZE as u64);
    assert_eq!(look(&room.served("big")), look(&room.own("big")));
    assert_eq!(names(&room.served("")), ["big"]);
}

#[tokio::test]
async fn a_remainder_that_lacks_nothing_only_needs_its_verdict() {
    let room = Room::new();
    write(&room.own("file"), "all of it");
    write(&partial_of(&room, "file"), "all of it");
    let summary = room.push("file", "").await.0.unwrap();
    assert_eq!((summary.files_verified, summary.bytes_transferred), (1, 0));
    assert_eq!(look(&room.served("file")), look(&room.own("file")));
    // One that is longer than the file is of no use.
    write(&partial_of(&room, "other"), "longer than the file");
    write(&room.own("other"), "short");
    let summary = room.push("other", "").await.0.unwrap();
    assert_eq!((summary.files_verified, summary.bytes_transferred), (1, 5));
    assert_eq!(names(&room.served("")), ["file", "other"]);
}

/// Goal: wherever a flow breaks, the next copy completes and nothing is left over. Method: a small tree,
/// broken after every so many octets.
#[tokio::test]
async fn a_flow_may_break_anywhere() {
    let room = Room::new();
    fs::create_dir_all(room.own("tree/sub")).unwrap();
    write(&room.own("tree/a"), pattern(30_000, 1));
    write(&room.own("tree/sub/b"), pattern(20_000, 2));
    mode(&room.own("tree/sub"), 0o500);
    let seen = look(&room.own("tree"));
    for octets in (1..50_000).step_by(1_777) {
        broken_push(&room, "tree", octets).await;
        let summary = room.push("tree", "").await.0.unwrap();
        assert_eq!(summary.files_verified + summary.files_unchanged, 2);
        assert_eq!(look(&room.served("tree")), seen, "broken after {octets}");
        fs::remove_dir_all(room.served("tree")).unwrap();
    }
}

//! The tables, and how a file comes to have them: migrations that are numbered by `user_version` and never
//! changed once released. Also the settings every writing connection needs.

use rusqlite::{Connection, TransactionBehavior};

use super::{RecordsError, Stop, bound};

/// Marks the file as ours ("stoQ")
const APPLICATION_ID: i64 = 0x7374_6f51;
/// SQLite's default, which the limit on pages is counted in
const PAGE_BYTES: i64 = 4_096;
/// How long the write-ahead log stays after a checkpoint
const LOG_BYTES: i64 = 64 << 20;

/// The first makes an empty file version 1, the next makes version 1 version 2, and so on
const MIGRATIONS: &[&str] = &["
    CREATE TABLE journals (
        journal BLOB PRIMARY KEY,
        applied_through INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE certificates (
        serial BLOB PRIMARY KEY,
        subject_node TEXT NOT NULL,
        dns_names TEXT NOT NULL,
        profile TEXT NOT NULL,
        spki_sha256 BLOB NOT NULL,
        issuer_key_id BLOB NOT NULL,
        not_before INTEGER NOT NULL,
        not_after INTEGER NOT NULL,
        log_index INTEGER NOT NULL,
        revoked_at INTEGER,
        reason INTEGER,
        sequence INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX certificates_by_expiry ON certificates (not_after, serial);
    CREATE INDEX certificates_by_spki ON certificates (spki_sha256, not_after, serial);
    CREATE INDEX certificates_revoked ON certificates (not_after, serial)
        WHERE revoked_at IS NOT NULL;

    CREATE TABLE certificate_names (
        name TEXT,
        not_after INTEGER,
        serial BLOB,
        PRIMARY KEY (name, not_after, serial)
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE revocations (
        serial BLOB PRIMARY KEY,
        revoked_at INTEGER NOT NULL,
        reason INTEGER NOT NULL,
        sequence INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE idempotent_results (
        key BLOB PRIMARY KEY,
        result BLOB NOT NULL,
        expires_at INTEGER NOT NULL,
        sequence INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX idempotent_results_by_expiry ON idempotent_results (expires_at);

    CREATE TABLE policies (
        name TEXT,
        version INTEGER,
        body BLOB NOT NULL,
        stored_at INTEGER NOT NULL,
        sequence INTEGER NOT NULL,
        PRIMARY KEY (name, version)
    ) STRICT;
"];

/// Makes a connection ready for writing
pub(super) fn prepare(mut connection: Connection, limit_bytes: u64) -> Result<Connection, Stop> {
    let number = |connection: &Connection, pragma: &str| {
        connection.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0))
    };
    let application = number(&connection, "application_id")?;
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if application != APPLICATION_ID && !(application == 0 && tables == 0) {
        let text = "the file is a database of another program".to_owned();
        return Err(RecordsError::Damaged(text).into());
    }
    let mode: String = connection
        .pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get::<_, String>(0))?;
    if !mode.eq_ignore_ascii_case("wal") {
        let text = format!("the file system allows journal mode {mode} only, WAL is needed");
        return Err(RecordsError::Failed(text).into());
    }
    // Every commit is on the disk when it returns; NORMAL would leave the last ones to chance.
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "journal_size_limit", LOG_BYTES)?;
    connection.pragma_update(None, "trusted_schema", "OFF")?;
    connection.pragma_update(None, "cell_size_check", "ON")?;
    connection.pragma_update(None, "max_page_count", (bound(limit_bytes) / PAGE_BYTES).max(1))?;
    migrate(&mut connection, MIGRATIONS)?;
    Ok(connection)
}

fn migrate(connection: &mut Connection, migrations: &[&str]) -> Result<(), Stop> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let version: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let done = usize::try_from(version).ok().filter(|done| *done <= migrations.len());
    let Some(done) = done else {
        let text =
            format!("the file has version {version}, this program knows {}", migrations.len());
        return Err(RecordsError::Damaged(text).into());
    };
    for migration in &migrations[done..] {
        transaction.execute_batch(migration)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", migrations.len() as i64)?;
    transaction.commit()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(connection: &Connection) -> i64 {
        connection.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap()
    }

    #[test]
    fn only_what_is_missing_is_migrated_and_a_bad_step_leaves_the_file_alone() {
        let mut connection = Connection::open_in_memory().unwrap();
        let steps = ["CREATE TABLE a (x)", "CREATE TABLE b (x)", "CREATE TABLE a (x)"];
        migrate(&mut connection, &steps[..1]).unwrap();
        migrate(&mut connection, &steps[..2]).unwrap();
        assert_eq!(version(&connection), 2);
        assert!(migrate(&mut connection, &steps).is_err());
        assert_eq!(version(&connection), 2);
        let newer = RecordsError::from(migrate(&mut connection, &steps[..1]).unwrap_err());
        assert!(matches!(newer, RecordsError::Damaged(_)), "{newer}");
    }

    #[test]
    fn the_tables_are_made_and_commits_are_synced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("records");
        let connection = prepare(Connection::open(&path).unwrap(), 1 << 30).unwrap();
        assert_eq!(version(&connection), MIGRATIONS.len() as i64);
        let pragma =
            |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).unwrap();
        assert_eq!(pragma("synchronous"), 2, "FULL");
        assert_eq!(pragma("page_size"), PAGE_BYTES);
        assert_eq!(pragma("max_page_count"), (1 << 30) / PAGE_BYTES);
    }

    #[test]
    fn another_programs_file_is_not_touched() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("other");
        let other = Connection::open(&path).unwrap();
        other.execute_batch("CREATE TABLE theirs (x); PRAGMA user_version = 1").unwrap();
        drop(other);
        let error = prepare(Connection::open(&path).unwrap(), 1 << 30).unwrap_err();
        assert!(matches!(RecordsError::from(error), RecordsError::Damaged(_)));
    }
}

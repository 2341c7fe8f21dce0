//! For build scripts: the versions of packages as this workspace's lock file has them, so that no report ever
//! names a version by hand. Not a parser of manifests.

#![forbid(unsafe_code)]

use std::path::Path;

/// Sets the environment variable `name` of the crate being built to the locked version of `package`
///
/// # Errors
/// Where the lock file cannot be read or does not hold exactly one version of the package.
pub fn version(name: &str, package: &str) -> Result<(), Box<dyn std::error::Error>> {
    let lock = Path::new(&std::env::var("CARGO_MANIFEST_DIR")?).join("../Cargo.lock");
    let text = std::fs::read_to_string(&lock)
        .map_err(|cause| format!("{}: {cause}; build inside the workspace", lock.display()))?;
    let version = find(&text, package)?;
    #[expect(clippy::print_stdout, reason = "a build script speaks to cargo on standard output")]
    {
        println!("cargo::rerun-if-changed={}", lock.display());
        println!("cargo::rustc-env={name}={version}");
    }
    Ok(())
}

fn find<'a>(lock: &'a str, package: &str) -> Result<&'a str, String> {
    let name = format!("name = \"{package}\"");
    let mut lines = lock.lines();
    let mut versions = Vec::new();
    while let Some(line) = lines.next() {
        if line == name {
            let version = lines.next().and_then(|line| line.strip_prefix("version = \""));
            versions.extend(version.and_then(|rest| rest.strip_suffix('"')));
        }
    }
    match versions[..] {
        [version] => Ok(version),
        _ => Err(format!("the lock file has {} versions of {package}", versions.len())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_found_if_there_is_exactly_one() {
        let lock = "[[package]]\nname = \"a\"\nversion = \"1.2.3\"\n\n[[package]]\nname = \"b\"\n\
                    version = \"1.0.0\"\n\n[[package]]\nname = \"b\"\nversion = \"2.0.0\"\n";
        assert_eq!(find(lock, "a"), Ok("1.2.3"));
        assert!(find(lock, "b").is_err());
        assert!(find(lock, "c").is_err());
    }
}

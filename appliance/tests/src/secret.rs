//! Looks for a private key where it must not be: in the memory of a process and in files, in every shape it could have
//! there. A search that finds nothing says how much it looked at, so that nobody takes a search of nothing for proof.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use boring::base64::encode_block;
use boring::pkey::PKey;

/// Octets that are read at once
const WINDOW_BYTES: usize = 1 << 20;
/// Octets that are looked at twice, so that a shape across two reads is found: more than the longest shape has
const OVERLAP_BYTES: usize = 1 << 10;
/// What is passed over where memory cannot be read
const PAGE_BYTES: u64 = 4_096;
/// Octets of a P-256 scalar
const SCALAR_BYTES: usize = 32;

/// A private key in every shape it could have
pub struct Secret {
    shapes: Vec<(String, Vec<u8>)>,
    /// Whether a shape begins with these two octets
    begins: Vec<bool>,
}

/// What a search has found, and in how much
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Sought {
    /// The shapes that are there, each once
    pub found: Vec<String>,
    /// Octets that were looked at
    pub bytes: u64,
    /// Octets that could not be read: pages of devices and of rings
    pub unreadable_bytes: u64,
}

impl Secret {
    /// The P-256 key of a PEM file: PKCS #8 in DER, the scalar as it is written and as BoringSSL keeps it (the
    /// lowest octet first), both in hexadecimal and in base64 wherever in a longer text, and the file's lines
    ///
    /// # Panics
    /// Where the file holds no such key.
    pub fn of_key(file: &Path) -> Self {
        let pem = std::fs::read(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let key = PKey::private_key_from_pem(&pem).expect("a private key in PEM");
        let der = key.private_key_to_der_pkcs8().expect("a key in memory can be written");
        let curve = key.ec_key().expect("a key on a curve");
        let scalar = curve.private_key().to_vec_padded(SCALAR_BYTES).expect("a scalar of P-256");
        let reversed: Vec<u8> = scalar.iter().rev().copied().collect();
        let mut shapes = vec![("PKCS #8".to_owned(), der.clone())];
        for (name, octets) in [("scalar", &scalar), ("reversed scalar", &reversed)] {
            shapes.push((name.to_owned(), octets.clone()));
            let hex: String = octets.iter().map(|octet| format!("{octet:02x}")).collect();
            shapes.push((format!("{name} in hexadecimal"), hex.clone().into_bytes()));
            shapes.push((format!("{name} in HEXADECIMAL"), hex.to_uppercase().into_bytes()));
            for (offset, text) in in_base64(octets).into_iter().enumerate() {
                shapes.push((format!("{name} in base64, {offset}"), text));
            }
        }
        shapes.push(("PKCS #8 in base64".to_owned(), encode_block(&der).into_bytes()));
        let lines = std::str::from_utf8(&pem).expect("PEM is text").lines();
        // The first line has the beginning of the scalar, the second its end; the last is too short to be a proof.
        let body = lines.filter(|line| !line.starts_with("-----") && line.len() >= 32);
        let body = body.take(2).enumerate();
        shapes.extend(body.map(|(at, line)| (format!("line {at} of the file"), line.into())));
        Self::of_shapes(shapes)
    }

    fn of_shapes(shapes: Vec<(String, Vec<u8>)>) -> Self {
        let mut begins = vec![false; 1 << 16];
        for (name, shape) in &shapes {
            assert!((16..OVERLAP_BYTES).contains(&shape.len()), "{name} proves nothing");
            begins[usize::from(u16::from_be_bytes([shape[0], shape[1]]))] = true;
        }
        Self { shapes, begins }
    }

    /// Searches these octets
    pub fn in_octets(&self, octets: &[u8]) -> Sought {
        let mut sought = Sought { bytes: octets.len() as u64, ..Sought::default() };
        self.search(octets, &mut sought);
        sought
    }

    /// Searches everything of a process's memory that can be read
    ///
    /// # Panics
    /// Where nothing may be read: the process is another user's, or keeps to itself.
    pub fn in_memory(&self, pid: u32) -> Sought {
        let memory = File::open(format!("/proc/{pid}/mem"))
            .unwrap_or_else(|error| panic!("the memory of {pid} cannot be read: {error}"));
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("the process runs");
        let mut sought = Sought::default();
        for range in maps.lines().filter_map(range) {
            self.sweep(range, |window, at| memory.read_at(window, at), &mut sought);
        }
        sought
    }

    /// Reads from the first address to the one behind the last
    fn sweep(
        &self,
        (from, to): (u64, u64),
        read: impl Fn(&mut [u8], u64) -> io::Result<usize>,
        sought: &mut Sought,
    ) {
        let mut window = vec![0; WINDOW_BYTES];
        let mut at = from;
        while at < to {
            let length = window.len().min(usize::try_from(to - at).unwrap_or(WINDOW_BYTES));
            match read(&mut window[..length], at) {
                Ok(0) | Err(_) => {
                    sought.unreadable_bytes += PAGE_BYTES.min(to - at);
                    at += PAGE_BYTES;
                }
                Ok(read) => {
                    self.search(&window[..read], sought);
                    let end = at + read as u64;
                    let again = if end < to && read > OVERLAP_BYTES { OVERLAP_BYTES } else { 0 };
                    sought.bytes += (read - again) as u64;
                    at = end - again as u64;
                }
            }
        }
    }

    /// Searches files; one that is gone by now is passed over, and so is a number that a process has given to a socket
    /// since, which cannot be opened (ENXIO)
    pub fn in_files(&self, files: &[PathBuf]) -> Sought {
        let mut sought = Sought::default();
        for file in files {
            let octets = match std::fs::read(file) {
                Ok(octets) => octets,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error)
                    if error.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error()) =>
                {
                    continue;
                }
                Err(error) => panic!("{}: {error}", file.display()),
            };
            let one = self.in_octets(&octets);
            sought.bytes += one.bytes;
            let named = one.found.iter().map(|shape| format!("{shape} in {}", file.display()));
            sought.found.extend(named);
        }
        sought
    }

    fn search(&self, octets: &[u8], sought: &mut Sought) {
        for (at, two) in octets.windows(2).enumerate() {
            if !self.begins[usize::from(u16::from_be_bytes([two[0], two[1]]))] {
                continue;
            }
            for (name, shape) in &self.shapes {
                if octets[at..].starts_with(shape) && !sought.found.contains(name) {
                    sought.found.push(name.clone());
                }
            }
        }
    }
}

/// The characters that octets become in base64 wherever they begin in a longer text: three ways, without the
/// characters that hold bits of a neighbour
fn in_base64(octets: &[u8]) -> [Vec<u8>; 3] {
    [0, 1, 2].map(|before| {
        let text = encode_block(&[&vec![0; before][..], octets].concat());
        let text = text.trim_end_matches('=').as_bytes();
        let first = (before * 8).div_ceil(6);
        let whole = (before + octets.len()) * 8 / 6;
        text[first..whole].to_vec()
    })
}

/// Beginning and end of a mapping that can be read
fn range(line: &str) -> Option<(u64, u64)> {
    let mut fields = line.split_whitespace();
    let (range, mode) = (fields.next()?, fields.next()?);
    if !mode.starts_with('r') {
        return None;
    }
    let (from, to) = range.split_once('-')?;
    let address = |text| u64::from_str_radix(text, 16).ok();
    Some((address(from)?, address(to)?))
}

/// Every regular file below a directory
pub fn files_below(directory: &Path) -> Vec<PathBuf> {
    let (mut files, mut directories) = (Vec::new(), vec![directory.to_owned()]);
    while let Some(directory) = directories.pop() {
        // What is removed while it is looked at is not there any more.
        let Ok(entries) = std::fs::read_dir(&directory) else { continue };
        for entry in entries {
            let path = entry.expect("a directory is read to its end").path();
            match std::fs::symlink_metadata(&path) {
                Ok(metadata) if metadata.is_dir() => directories.push(path),
                Ok(metadata) if metadata.is_file() => files.push(path),
                _ => {}
            }
        }
    }
    files
}

/// Every regular file that a process has open, also those that no directory names any more, and what it was started
/// with
pub fn files_of(pid: u32) -> Vec<PathBuf> {
    let mut files: Vec<_> =
        ["environ", "cmdline"].map(|name| format!("/proc/{pid}/{name}").into()).into();
    for open in std::fs::read_dir(format!("/proc/{pid}/fd")).expect("the process is ours") {
        let open = open.expect("a directory is read to its end").path();
        // By the descriptor itself, so that a file that was removed is read as well.
        if std::fs::metadata(&open).is_ok_and(|metadata| metadata.is_file()) {
            files.push(open);
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret() -> (tempfile::TempDir, Secret, Vec<u8>) {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("key.pem");
        let group = boring::ec::EcGroup::from_curve_name(boring::nid::Nid::X9_62_PRIME256V1);
        let key = boring::ec::EcKey::generate(&group.unwrap()).unwrap();
        let scalar = key.private_key().to_vec_padded(SCALAR_BYTES).unwrap();
        let pem = PKey::from_ec_key(key).unwrap().private_key_to_pem_pkcs8().unwrap();
        std::fs::write(&file, pem).unwrap();
        let secret = Secret::of_key(&file);
        (directory, secret, scalar)
    }

    #[test]
    fn a_key_is_found_in_each_shape_and_nowhere_else() {
        let (directory, secret, scalar) = secret();
        let found = |octets: &[u8]| secret.in_octets(octets).found;
        assert_eq!(found(&[0; 4_096]), [""; 0]);
        assert_eq!(found(&[&[7; 99][..], &scalar].concat()), ["scalar"]);
        for before in 0..3 {
            let text = encode_block(&[&vec![0x5a; 30 + before][..], &scalar, &[1, 2]].concat());
            assert_eq!(found(text.as_bytes()), [format!("scalar in base64, {before}")]);
        }
        let hex: String = scalar.iter().rev().map(|octet| format!("{octet:02X}")).collect();
        assert_eq!(found(hex.as_bytes()), ["reversed scalar in HEXADECIMAL"]);
        let file = directory.path().join("key.pem");
        let in_file = secret.in_files(std::slice::from_ref(&file)).found;
        assert_eq!(in_file.len(), 2, "{in_file:?}");
        let der = PKey::private_key_from_pem(&std::fs::read(&file).unwrap()).unwrap();
        let der = der.private_key_to_der_pkcs8().unwrap();
        assert_eq!(found(&der), ["PKCS #8", "scalar"]);
        // One octet less is not the key.
        assert_eq!(found(&scalar[1..]), [""; 0]);
    }

    #[test]
    fn memory_is_searched_across_reads_and_around_what_cannot_be_read() {
        let (_directory, secret, scalar) = secret();
        let page = PAGE_BYTES as usize;
        let mut memory = vec![0_u8; 3 * WINDOW_BYTES + 77];
        // The first read ends at the hole, and the next ones end within the key.
        let hole = 5 * page..7 * page;
        let at = hole.end + WINDOW_BYTES - SCALAR_BYTES / 2;
        memory[at..at + SCALAR_BYTES].copy_from_slice(&scalar);
        let read = |window: &mut [u8], at: u64| {
            let at = at as usize;
            if hole.contains(&at) {
                return Err(io::Error::from_raw_os_error(5));
            }
            let end = if at < hole.start { hole.start } else { memory.len() };
            let length = window.len().min(end - at);
            window[..length].copy_from_slice(&memory[at..at + length]);
            Ok(length)
        };
        let mut sought = Sought::default();
        secret.sweep((0, memory.len() as u64), read, &mut sought);
        assert_eq!(sought.found, ["scalar"]);
        assert_eq!(sought.unreadable_bytes, 2 * PAGE_BYTES);
        // A key that ends with the memory
        let end = memory.len() - SCALAR_BYTES;
        memory[at..at + SCALAR_BYTES].fill(0);
        memory[end..].copy_from_slice(&scalar);
        let read = |window: &mut [u8], at: u64| {
            window.copy_from_slice(&memory[at as usize..at as usize + window.len()]);
            Ok(window.len())
        };
        let mut sought = Sought::default();
        secret.sweep((0, memory.len() as u64), read, &mut sought);
        assert_eq!(sought.found, ["scalar"]);
        assert_eq!(sought.bytes, memory.len() as u64);
    }

    #[test]
    fn the_memory_of_this_process_can_be_read_and_so_can_a_file_that_was_removed() {
        let (_directory, secret, scalar) = secret();
        // What is looked for is here at least once: where it is looked for from.
        let sought = secret.in_memory(std::process::id());
        assert!(sought.found.contains(&"scalar".to_owned()), "{sought:?}");
        let other = tempfile::tempdir().unwrap();
        let path = other.path().join("removed");
        let file = File::options().create_new(true).read(true).write(true).open(&path).unwrap();
        file.write_all_at(&scalar, 0).unwrap();
        std::fs::remove_file(&path).unwrap();
        let found = secret.in_files(&files_of(std::process::id())).found;
        assert!(found.iter().any(|one| one.starts_with("scalar in ")), "{found:?}");
        drop(file);
    }
}

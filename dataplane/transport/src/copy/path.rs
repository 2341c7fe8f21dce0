//! Names and paths of the copy protocol. They exist only in checked form: a component is never empty, `.`
//! or `..`, holds neither `/` nor NUL, and depth and length are limited, so no path can climb out of the
//! directory it is resolved in. Nothing here touches a file system.

use std::fmt;
use std::sync::Arc;

use super::text::Escaped;
use super::{COMPONENT_BYTES_MAX, PATH_BYTES_MAX, PATH_DEPTH_MAX};

/// Why octets are not a path or not one component of a path
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PathError {
    /// A component without octets
    #[error("a component of the path is empty")]
    Empty,
    /// `.` or `..`
    #[error("the path holds the component '{0}', which names no entry of a directory")]
    Dots(&'static str),
    /// `/` or NUL inside a component
    #[error("the component '{0}' holds a slash or a NUL")]
    Character(String),
    /// Longer than [`COMPONENT_BYTES_MAX`]
    #[error("a component has {0} octets, more than {COMPONENT_BYTES_MAX}")]
    ComponentTooLong(usize),
    /// More components than [`PATH_DEPTH_MAX`]
    #[error("the path has more than {PATH_DEPTH_MAX} components")]
    TooDeep,
    /// More octets than [`PATH_BYTES_MAX`]
    #[error("the path has more than {PATH_BYTES_MAX} octets")]
    TooLong,
}

fn check(component: &[u8]) -> Result<(), PathError> {
    match component {
        b"" => Err(PathError::Empty),
        b"." => Err(PathError::Dots(".")),
        b".." => Err(PathError::Dots("..")),
        long if long.len() > COMPONENT_BYTES_MAX => Err(PathError::ComponentTooLong(long.len())),
        bytes if bytes.iter().any(|byte| matches!(byte, b'/' | 0)) => {
            Err(PathError::Character(Escaped(bytes).to_string()))
        }
        _ => Ok(()),
    }
}

/// One name inside a directory
#[derive(Clone, Eq, Hash, PartialEq)]
pub struct Component(Arc<[u8]>);

impl Component {
    /// Checks the octets of a name
    pub fn new(bytes: &[u8]) -> Result<Self, PathError> {
        check(bytes)?;
        Ok(Self(bytes.into()))
    }

    /// The octets of the name
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Escaped(&self.0).fmt(f)
    }
}

impl fmt::Debug for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// A path below the root of a transfer; no components at all mean the root itself
#[derive(Clone, Eq, Hash, PartialEq)]
pub struct EntryPath(Arc<[u8]>);

impl EntryPath {
    /// The root of the transfer
    pub fn root() -> Self {
        Self(Arc::from([].as_slice()))
    }

    /// A path of the given components, each of them checked
    pub fn from_components<'a>(
        components: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<Self, PathError> {
        let mut joined = Vec::new();
        for (index, component) in components.into_iter().enumerate() {
            if index == PATH_DEPTH_MAX {
                return Err(PathError::TooDeep);
            }
            append(&mut joined, component)?;
        }
        Ok(Self(joined.into()))
    }

    /// The path of the entry `component` inside this directory
    pub fn join(&self, component: &[u8]) -> Result<Self, PathError> {
        if self.depth() == PATH_DEPTH_MAX {
            return Err(PathError::TooDeep);
        }
        let mut joined = Vec::with_capacity(self.0.len() + 1 + component.len());
        joined.extend_from_slice(&self.0);
        append(&mut joined, component)?;
        Ok(Self(joined.into()))
    }

    /// The components from the root downwards
    pub fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|byte| *byte == b'/').filter(|component| !component.is_empty())
    }

    /// The number of components
    pub fn depth(&self) -> usize {
        self.components().count()
    }

    /// Whether this is the root of the transfer
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The directory and the name in it; `None` for the root
    pub fn split_last(&self) -> Option<(EntryPath, Component)> {
        if self.is_root() {
            return None;
        }
        let (directory, name) = match self.0.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (&self.0[..slash], &self.0[slash + 1..]),
            None => (&self.0[..0], &self.0[..]),
        };
        Some((Self(directory.into()), Component(name.into())))
    }
}

fn append(joined: &mut Vec<u8>, component: &[u8]) -> Result<(), PathError> {
    check(component)?;
    if !joined.is_empty() {
        joined.push(b'/');
    }
    joined.extend_from_slice(component);
    if joined.len() > PATH_BYTES_MAX { Err(PathError::TooLong) } else { Ok(()) }
}

impl fmt::Display for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_root() { f.write_str(".") } else { Escaped(&self.0).fmt(f) }
    }
}

impl fmt::Debug for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// Where on the serving node a transfer starts or ends
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RemotePath {
    /// Counted from the node's file system root rather than from its first served directory
    pub absolute: bool,
    /// Written with a trailing slash: it must be a directory
    pub directory: bool,
    /// Written with a trailing `/.`: the directory's content rather than the directory
    pub contents: bool,
    /// The components
    pub path: EntryPath,
}

impl RemotePath {
    /// Reads a path as an operator types it: repeated slashes and `.` components mean nothing, `..` is refused
    pub fn parse(text: &str) -> Result<Self, PathError> {
        let bytes = text.as_bytes();
        let mut components = Vec::new();
        let mut last = b"".as_slice();
        for component in bytes.split(|byte| *byte == b'/') {
            last = component;
            if !matches!(component, b"" | b".") {
                components.push(component);
            }
        }
        let contents = last == b".";
        Ok(Self {
            absolute: bytes.first() == Some(&b'/'),
            directory: contents || bytes.last() == Some(&b'/'),
            contents,
            path: EntryPath::from_components(components)?,
        })
    }
}

impl fmt::Display for RemotePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.absolute {
            f.write_str("/")?;
        }
        if !(self.absolute && self.path.is_root()) {
            self.path.fmt(f)?;
        }
        match (self.contents, self.directory && !self.path.is_root()) {
            (true, true) => f.write_str("/."),
            (false, true) => f.write_str("/"),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_component_can_leave_its_directory() {
        assert_eq!(Component::new(b""), Err(PathError::Empty));
        assert_eq!(Component::new(b"."), Err(PathError::Dots(".")));
        assert_eq!(Component::new(b".."), Err(PathError::Dots("..")));
        assert_eq!(Component::new(b"a/b"), Err(PathError::Character("a/b".into())));
        assert_eq!(Component::new(b"a\0"), Err(PathError::Character("a\\x00".into())));
        assert_eq!(Component::new(&[b'a'; 256]), Err(PathError::ComponentTooLong(256)));
        for name in [b"...".as_slice(), b"a b", b"\xff\xfe", b"-", &[b'a'; 255]] {
            assert!(Component::new(name).is_ok());
        }
    }

    #[test]
    fn depth_and_length_are_limited() {
        let names = vec![b"a".as_slice(); PATH_DEPTH_MAX];
        let deepest = EntryPath::from_components(names.iter().copied()).unwrap();
        assert_eq!(deepest.depth(), PATH_DEPTH_MAX);
        assert_eq!(deepest.join(b"a"), Err(PathError::TooDeep));
        let deeper = names.iter().copied().chain([b"a".as_slice()]);
        assert_eq!(EntryPath::from_components(deeper), Err(PathError::TooDeep));
        let long = [b'a'; 255];
        let widest = EntryPath::from_components([long.as_slice(); 16]).unwrap();
        assert_eq!(widest.join(b"a"), Err(PathError::TooLong));
    }

    #[test]
    fn paths_split_where_they_were_joined() {
        let path = EntryPath::root().join(b"a b").unwrap().join(b"\xffc").unwrap();
        let (directory, name) = path.split_last().unwrap();
        assert_eq!(directory, EntryPath::root().join(b"a b").unwrap());
        assert_eq!(name.as_bytes(), b"\xffc");
        assert_eq!(path.to_string(), "a b/\\xffc");
        let (root, name) = directory.split_last().unwrap();
        assert!(root.is_root() && root.split_last().is_none());
        assert_eq!(name.as_bytes(), b"a b");
        assert_eq!(EntryPath::root().to_string(), ".");
    }

    #[test]
    fn remote_paths_read_as_typed_and_never_climb() {
        for (text, absolute, directory, contents, shown) in [
            ("/srv//data", true, false, false, "/srv/data"),
            ("data/", false, true, false, "data/"),
            ("./data/.", false, true, true, "data/."),
            ("/", true, true, false, "/"),
            ("", false, false, false, "."),
            (".", false, true, true, "."),
        ] {
            let path = RemotePath::parse(text).unwrap();
            let flags = (path.absolute, path.directory, path.contents);
            assert_eq!(flags, (absolute, directory, contents), "{text}");
            assert_eq!(path.to_string(), shown);
        }
        assert_eq!(RemotePath::parse("a/../b"), Err(PathError::Dots("..")));
        assert_eq!(RemotePath::parse("/.."), Err(PathError::Dots("..")));
    }
}

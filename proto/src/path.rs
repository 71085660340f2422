//! Paths of nodes: checked where they are parsed, trusted afterwards.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// Longest path, in bytes.
pub const PATH_BYTES_MAX: usize = 1024;
/// Most components of a path.
pub const PATH_DEPTH_MAX: usize = 64;
/// A sequential node's number has at least this many digits.
pub const SEQUENCE_DIGITS: usize = 10;

/// Absolute and normalized: `/` alone, or `/a/b` without empty, `.` or `..` components, control characters or a
/// trailing slash; at most [`PATH_BYTES_MAX`] bytes and [`PATH_DEPTH_MAX`] components. [`NodePath::parse`] is
/// the only way in. Cloning is cheap.
///
/// Paths order by bytes; a subtree is contiguous once siblings that merely share a prefix (`/a-b` beside `/a/b`)
/// are told apart, which [`NodePath::is_below`] does.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct NodePath(Arc<str>);

/// Why a text is not a path.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PathError {
    /// Does not begin with a slash.
    #[error("path must begin with '/': got {0:?}, write {suggestion:?}", suggestion = format!("/{}", .0.chars().take(40).collect::<String>()))]
    NotAbsolute(String),
    /// Ends with a slash.
    #[error("path must not end with '/': got {0:?}")]
    TrailingSlash(String),
    /// `//`, `.` or `..`.
    #[error("path has a component that names nothing: {component:?} in {path:?}")]
    Component {
        /// The offending component.
        component: String,
        /// The whole path.
        path: String,
    },
    /// A control character.
    #[error("path has a control character at byte {at}: {path:?}")]
    Control {
        /// Offset in bytes.
        at: usize,
        /// The whole path.
        path: String,
    },
    /// Too many bytes.
    #[error("path is {bytes} bytes long, the limit is {PATH_BYTES_MAX}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// Too many components.
    #[error("path has {depth} components, the limit is {PATH_DEPTH_MAX}")]
    TooDeep {
        /// Its depth.
        depth: usize,
    },
}

impl NodePath {
    /// The top of the tree.
    #[must_use]
    pub fn root() -> Self {
        Self("/".into())
    }

    /// # Errors
    /// What is wrong with the text, and where.
    pub fn parse(text: &str) -> Result<Self, PathError> {
        if text.len() > PATH_BYTES_MAX {
            return Err(PathError::TooLong { bytes: text.len() });
        }
        let Some(rest) = text.strip_prefix('/') else {
            return Err(PathError::NotAbsolute(text.to_owned()));
        };
        if rest.is_empty() {
            return Ok(Self::root());
        }
        if rest.ends_with('/') {
            return Err(PathError::TrailingSlash(text.to_owned()));
        }
        if let Some((at, _)) = text.char_indices().find(|(_, c)| c.is_control()) {
            return Err(PathError::Control { at, path: text.to_owned() });
        }
        let mut depth = 0;
        for component in rest.split('/') {
            if matches!(component, "" | "." | "..") {
                return Err(PathError::Component { component: component.to_owned(), path: text.to_owned() });
            }
            depth += 1;
        }
        if depth > PATH_DEPTH_MAX {
            return Err(PathError::TooDeep { depth });
        }
        Ok(Self(text.into()))
    }

    /// The path as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// True for `/`.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0.len() == 1
    }

    /// The node above; none for the root.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        if self.is_root() {
            return None;
        }
        match self.0.rfind('/') {
            Some(0) => Some(Self::root()),
            Some(at) => Some(Self(self.0[..at].into())),
            None => unreachable!("a path is absolute"),
        }
    }

    /// The last component; empty for the root.
    #[must_use]
    pub fn name(&self) -> &str {
        let slash = self.0.rfind('/').expect("a path is absolute");
        &self.0[slash + 1..]
    }

    /// Components below the root: 0 for the root itself.
    #[must_use]
    pub fn depth(&self) -> usize {
        if self.is_root() { 0 } else { self.0.matches('/').count() }
    }

    /// The child of this name.
    ///
    /// # Errors
    /// Where the result would be no path.
    pub fn child(&self, name: &str) -> Result<Self, PathError> {
        if name.contains('/') {
            return Err(PathError::Component { component: name.to_owned(), path: self.to_string() });
        }
        Self::parse(&if self.is_root() { format!("/{name}") } else { format!("{self}/{name}") })
    }

    /// This path with a sequence number appended to its last component.
    ///
    /// # Errors
    /// [`PathError::TooLong`].
    pub fn with_sequence(&self, sequence: u64) -> Result<Self, PathError> {
        Self::parse(&format!("{self}{sequence:0SEQUENCE_DIGITS$}"))
    }

    /// True if `self` lies strictly below `ancestor`.
    #[must_use]
    pub fn is_below(&self, ancestor: &NodePath) -> bool {
        if ancestor.is_root() {
            return !self.is_root();
        }
        self.0.len() > ancestor.0.len()
            && self.0.as_bytes()[ancestor.0.len()] == b'/'
            && self.0.starts_with(ancestor.as_str())
    }

    /// What the paths of all nodes below this one begin with: `/` or `/a/`.
    #[must_use]
    pub fn below_prefix(&self) -> String {
        if self.is_root() { "/".to_owned() } else { format!("{self}/") }
    }

    /// This path's ancestors, nearest first, the root last.
    pub fn ancestors(&self) -> impl Iterator<Item = NodePath> {
        std::iter::successors(self.parent(), NodePath::parent)
    }
}

impl fmt::Display for NodePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for NodePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for NodePath {
    type Err = PathError;

    fn from_str(text: &str) -> Result<Self, PathError> {
        Self::parse(text)
    }
}

impl std::borrow::Borrow<str> for NodePath {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl Serialize for NodePath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for NodePath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <&str>::deserialize(deserializer)?;
        Self::parse(text).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> NodePath {
        NodePath::parse(text).expect("a path")
    }

    #[test]
    fn what_is_a_path_and_what_is_not() {
        for good in ["/", "/a", "/a/b", "/locks/orders/42", "/ä/ö ü", "/a...b"] {
            assert_eq!(path(good).as_str(), good);
        }
        for (bad, part) in [
            ("", "begin with '/'"),
            ("a", "write \"/a\""),
            ("/a/", "end with"),
            ("//", "end with"),
            ("/a//b", "names nothing"),
            ("/a/./b", "names nothing"),
            ("/../b", "names nothing"),
            ("/a\0b", "control character at byte 2"),
            ("/a\nb", "control"),
        ] {
            let error = NodePath::parse(bad).expect_err(bad).to_string();
            assert!(error.contains(part), "{bad:?}: {error}");
        }
        let long = format!("/{}", "x".repeat(PATH_BYTES_MAX - 1));
        assert_eq!(path(&long).as_str().len(), PATH_BYTES_MAX);
        assert!(matches!(NodePath::parse(&format!("{long}x")), Err(PathError::TooLong { bytes: 1025 })));
        let deep = "/x".repeat(PATH_DEPTH_MAX);
        assert_eq!(path(&deep).depth(), PATH_DEPTH_MAX);
        assert!(matches!(NodePath::parse(&format!("{deep}/x")), Err(PathError::TooDeep { depth: 65 })));
    }

    #[test]
    fn families() {
        assert_eq!(path("/a/b").parent(), Some(path("/a")));
        assert_eq!(path("/a").parent(), Some(NodePath::root()));
        assert_eq!(NodePath::root().parent(), None);
        assert_eq!(path("/a/b").name(), "b");
        assert!(path("/a/b").is_below(&path("/a")));
        assert!(!path("/a-b").is_below(&path("/a")));
        assert!(!path("/a").is_below(&path("/a")));
        assert!(path("/a").is_below(&NodePath::root()));
        assert!(!NodePath::root().is_below(&NodePath::root()));
        assert_eq!(path("/a/b/c").ancestors().collect::<Vec<_>>(), [path("/a/b"), path("/a"), NodePath::root()]);
        assert_eq!(path("/q/n-").with_sequence(42), Ok(path("/q/n-0000000042")));
        assert_eq!(path("/q/n-").with_sequence(u64::MAX), Ok(path("/q/n-18446744073709551615")));
        assert_eq!(NodePath::root().child("a"), Ok(path("/a")));
        assert!(path("/a").child("b/c").is_err());
    }
}

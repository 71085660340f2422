//! Paths of nodes.

use conclave_proto::NodePath;

use crate::Target;

/// The path's own rules.
pub const PATH: Target = Target {
    name: "node-path",
    about: "a path; what is accepted reads the same again, and so do its parent, its ancestors and its children",
    run,
    seeds: || {
        ["/", "/a", "/locks/orders/42", "/q/n-0000000042", "/\u{e9}\u{4e2d}/\u{1f512}", "//", "/a/../b", "a"]
            .map(|path| path.into())
            .into()
    },
};

fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(path) = NodePath::parse(text) else { return };
    assert_eq!(path.as_str(), text, "a path is kept as it was written");
    let ancestors: Vec<NodePath> = path.ancestors().collect();
    for ancestor in ancestors.iter().chain(&path.parent()) {
        assert_eq!(&NodePath::parse(ancestor.as_str()).expect("a path"), ancestor);
        assert!(*ancestor == path || path.is_below(ancestor));
    }
    assert_eq!(path.is_root(), path.parent().is_none());
    if let Ok(child) = path.child("x") {
        assert_eq!(child.parent().expect("it has one"), path);
        assert_eq!((child.name(), child.depth()), ("x", path.depth() + 1));
    }
    if !path.is_root()
        && let Ok(numbered) = path.with_sequence(7)
    {
        assert!(NodePath::parse(numbered.as_str()).is_ok() && numbered.name().ends_with("0000000007"));
    }
}

//! Where kvd listens when nobody says otherwise. The daemon and every connector follow the same rule.

use std::env;
use std::path::PathBuf;

/// Environment variable that names the socket.
pub const SOCKET_VARIABLE: &str = "KVD_SOCKET";

/// `$KVD_SOCKET`; else `/run/kvd/kvd.sock` for root; else `$XDG_RUNTIME_DIR/kvd/kvd.sock`; else `/tmp/kvd-<uid>/kvd.sock`.
pub fn default_socket_path() -> PathBuf {
    let named = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    choose(named(SOCKET_VARIABLE), named("XDG_RUNTIME_DIR"), rustix::process::getuid().as_raw())
}

fn choose(named: Option<PathBuf>, runtime_dir: Option<PathBuf>, uid: u32) -> PathBuf {
    match (named, runtime_dir) {
        (Some(socket), _) => socket,
        (None, _) if uid == 0 => "/run/kvd/kvd.sock".into(),
        (None, Some(dir)) => dir.join("kvd/kvd.sock"),
        (None, None) => format!("/tmp/kvd-{uid}/kvd.sock").into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_specific_place_wins() {
        let path = |text: &str| Some(PathBuf::from(text));
        assert_eq!(choose(path("/a.sock"), path("/run/user/7"), 0), PathBuf::from("/a.sock"));
        assert_eq!(choose(None, path("/run/user/0"), 0), PathBuf::from("/run/kvd/kvd.sock"));
        assert_eq!(choose(None, path("/run/user/7"), 7), PathBuf::from("/run/user/7/kvd/kvd.sock"));
        assert_eq!(choose(None, None, 7), PathBuf::from("/tmp/kvd-7/kvd.sock"));
    }
}

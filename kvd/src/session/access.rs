//! Who may use the daemon: its own user, root, and who is listed.

use crate::settings::EngineSettings;
use kvd_shm::fds::Peer;

/// Whom the socket is open to.
#[derive(Debug, Clone)]
pub struct Access {
    own_uid: u32,
    uids: Vec<u32>,
    gids: Vec<u32>,
}

impl Access {
    /// As the settings say.
    pub fn new(settings: &EngineSettings) -> Access {
        Access { own_uid: rustix::process::getuid().as_raw(), uids: settings.allowed_uids.clone(), gids: settings.allowed_gids.clone() }
    }

    /// Refuses with the way out.
    pub fn check(&self, peer: Peer) -> Result<(), String> {
        if peer.uid == self.own_uid || peer.uid == 0 || self.uids.contains(&peer.uid) || self.gids.contains(&peer.gid) {
            return Ok(());
        }
        let (uid, own) = (peer.uid, self.own_uid);
        Err(format!("user {uid} may not use this kvd, which runs as user {own}: add {uid} to `[engine] allowed_uids`"))
    }

    /// Only the daemon's own user takes over.
    pub fn check_takeover(&self, peer: Peer) -> Result<(), String> {
        if peer.uid == self.own_uid {
            return Ok(());
        }
        Err(format!("user {} may not take over from a kvd that runs as user {}", peer.uid, self.own_uid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_are_refused_with_the_way_out() {
        let access = Access { own_uid: 10, uids: vec![11], gids: vec![12] };
        let peer = |uid, gid| Peer { pid: 1, uid, gid };
        assert!([peer(10, 0), peer(0, 0), peer(11, 0), peer(99, 12)].map(|peer| access.check(peer).is_ok()).iter().all(|ok| *ok));
        assert!(access.check(peer(99, 98)).unwrap_err().contains("add 99 to `[engine] allowed_uids`"));
        assert!(access.check_takeover(peer(0, 0)).is_err());
    }
}

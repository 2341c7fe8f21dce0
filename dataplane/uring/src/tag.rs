//! The 64 bits that travel with every operation and come back with its completion: what it was, and for which
//! slab or peer.

/// Kinds of completions
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Tag {
    /// Multishot receive
    Receive,
    /// Send of the slab with this index
    Send(u32),
    /// Multishot poll of the own eventfd
    Eventfd,
    /// Another ring's wake-up
    PeerWake,
    /// Own wake-up of the peer with this index; completes only when it fails
    WakePeer(u32),
    /// Own write to the eventfd of a program; completes only when it fails
    Notify,
    /// Cancellation of everything, at the end
    Cancel,
}

const SHIFT: u32 = 56;

impl Tag {
    pub(crate) fn to_user_data(self) -> u64 {
        let (kind, index) = match self {
            Self::Receive => (1, 0),
            Self::Send(index) => (2, index),
            Self::Eventfd => (3, 0),
            Self::PeerWake => (4, 0),
            Self::WakePeer(index) => (5, index),
            Self::Cancel => (6, 0),
            Self::Notify => (7, 0),
        };
        (kind << SHIFT) | u64::from(index)
    }

    pub(crate) fn from_user_data(user_data: u64) -> Option<Self> {
        let index = user_data as u32;
        Some(match user_data >> SHIFT {
            1 => Self::Receive,
            2 => Self::Send(index),
            3 => Self::Eventfd,
            4 => Self::PeerWake,
            5 => Self::WakePeer(index),
            6 => Self::Cancel,
            7 => Self::Notify,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_comes_back() {
        for tag in [
            Tag::Receive,
            Tag::Send(0),
            Tag::Send(u32::MAX),
            Tag::Eventfd,
            Tag::PeerWake,
            Tag::WakePeer(3),
            Tag::Notify,
            Tag::Cancel,
        ] {
            assert_eq!(Tag::from_user_data(tag.to_user_data()), Some(tag));
        }
        assert_eq!(Tag::from_user_data(0), None);
        assert_eq!(Tag::from_user_data(u64::MAX), None);
    }
}

//! A set of names in one compact buffer.

use alloc::boxed::Box;
use alloc::collections::BinaryHeap;
use alloc::vec::Vec;
use core::iter;

/// The kind of a name, in the order in which names are stored.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    CommonName,
    Organization,
    OrganizationalUnit,
    SerialNumber,
    DnsName,
    /// An address of four bytes. IPv4 comes before IPv6, as in the order of [`IpAddr`](core::net::IpAddr).
    Ipv4,
    /// An address of sixteen bytes.
    Ipv6,
    Uri,
}

impl Kind {
    const ALL: [Self; 8] = [
        Self::CommonName,
        Self::Organization,
        Self::OrganizationalUnit,
        Self::SerialNumber,
        Self::DnsName,
        Self::Ipv4,
        Self::Ipv6,
        Self::Uri,
    ];
}

/// The bytes that a set stores in place. An `Arc` of a set fits into a block of 96 bytes, and holds the names of a node:
/// common name, organization and one DNS name. Longer sets have an allocation of their own.
const IN_PLACE: usize = 70;

/// Names, sorted by kind and then by bytes, without duplicates: two sets are equal if they have the same names.
///
/// The buffer has an entry for each name: the kind in one byte, the length in seven bits a byte, the least significant
/// first (LEB128), and the name.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Names(Buffer);

#[derive(Clone, PartialEq, Eq, Hash)]
enum Buffer {
    /// Bytes beyond `length` are zero.
    InPlace {
        length: u8,
        bytes: [u8; IN_PLACE],
    },
    Allocated(Box<[u8]>),
}

impl Names {
    /// The names, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Kind, &[u8])> + Clone {
        let mut rest = self.bytes();
        iter::from_fn(move || {
            let (kind, behind) = rest.split_first()?;
            let (length, behind) = read_length(behind);
            let (name, behind) = behind.split_at_checked(length)?;
            rest = behind;
            Some((*Kind::ALL.get(usize::from(*kind))?, name))
        })
    }

    /// Removes the names of the kind `removed`, and adds the names `added`.
    pub(crate) fn changed(&self, removed: Option<Kind>, mut added: Vec<(Kind, Vec<u8>)>) -> Self {
        let kept = self.iter().filter(|(kind, _)| Some(*kind) != removed);
        added.extend(kept.map(|(kind, name)| (kind, name.to_vec())));
        // Heapsort: `sort_unstable` would be a fifth of the code on a microcontroller.
        let mut names = BinaryHeap::from(added).into_sorted_vec();
        names.dedup();
        Self::encode(&names)
    }

    /// Encodes names that are sorted.
    fn encode(names: &[(Kind, Vec<u8>)]) -> Self {
        let mut encoded = Vec::new();
        for (kind, name) in names {
            encoded.push(*kind as u8);
            write_length(name.len(), &mut encoded);
            encoded.extend_from_slice(name);
        }
        let mut bytes = [0; IN_PLACE];
        match (bytes.get_mut(..encoded.len()), u8::try_from(encoded.len())) {
            (Some(room), Ok(length)) => {
                room.copy_from_slice(&encoded);
                Self(Buffer::InPlace { length, bytes })
            }
            _ => Self(Buffer::Allocated(encoded.into())),
        }
    }

    fn bytes(&self) -> &[u8] {
        match &self.0 {
            Buffer::InPlace { length, bytes } => bytes.get(..usize::from(*length)).unwrap_or_default(),
            Buffer::Allocated(bytes) => bytes,
        }
    }
}

/// No names.
impl Default for Names {
    fn default() -> Self {
        Self(Buffer::InPlace { length: 0, bytes: [0; IN_PLACE] })
    }
}

fn write_length(mut length: usize, encoded: &mut Vec<u8>) {
    while length > 0x7f {
        encoded.push(length as u8 | 0x80);
        length >>= 7;
    }
    encoded.push(length as u8);
}

/// Reads a length, and returns the bytes behind it.
fn read_length(bytes: &[u8]) -> (usize, &[u8]) {
    let (mut length, mut rest, mut shift) = (0, bytes, 0);
    while let Some((byte, behind)) = rest.split_first() {
        length |= usize::from(byte & 0x7f) << shift;
        (rest, shift) = (behind, shift + 7);
        if byte & 0x80 == 0 {
            break;
        }
    }
    (length, rest)
}

//! TUN devices with segmentation offload.
//!
//! With `IFF_VNET_HDR` and the offloads on, one read gives up to 64 KiB of a TCP stream with one virtio-net
//! header in front, instead of 1,500 bytes, and checksums stay unset. What is read from one device can be
//! written into the other as it is. Without it the relay would cost more processor time than some of what is
//! measured.
//!
//! Source of the interface: `Documentation/networking/tuntap.rst` and `include/uapi/linux/{if_tun,virtio_net}.h`.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

/// Largest read: a virtio-net header and an IP packet.
pub(super) const MAX_PACKET: usize = HEADER + 65_535;

/// Length of `struct virtio_net_hdr`.
const HEADER: usize = 10;

/// Bytes that go over a wire with each IP packet: preamble, Ethernet header, checksum and inter-frame gap.
const ETHERNET: u64 = 8 + 14 + 4 + 12;

/// An open TUN device; it disappears when this is dropped.
#[derive(Debug)]
pub(super) struct Tun(File);

impl Tun {
    /// Makes the device `name` in the calling thread's network namespace. Reads and writes do not block.
    pub(super) fn open(name: &str) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open("/dev/net/tun")?;
        attach(&file, name)?;
        Ok(Self(file))
    }

    /// Reads one packet with its header; `Ok(None)` when there is none.
    pub(super) fn receive(&self, buffer: &mut [u8]) -> rustix::io::Result<Option<usize>> {
        match rustix::io::read(&self.0, buffer) {
            Ok(length) => Ok(Some(length)),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes one packet with its header. The device takes or drops it at once.
    pub(super) fn send(&self, packet: &[u8]) -> rustix::io::Result<()> {
        match rustix::io::write(&self.0, packet) {
            // What the kernel cannot take is lost, as on any link.
            Ok(_) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::NOBUFS) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Bytes that a packet, as read from a device, would take on an Ethernet: a large one is cut into segments,
/// each with its headers.
pub(super) fn wire_bytes(packet: &[u8]) -> u64 {
    let field =
        |at: usize| packet.get(at..at + 2).map_or(0, |two| u64::from(u16::from_le_bytes([two[0], two[1]])));
    let (headers, segment) = (field(2), field(4));
    let length = packet.len().saturating_sub(HEADER) as u64;
    let unsegmented = packet.get(1).is_none_or(|kind| *kind == 0);
    if unsegmented || segment == 0 || length <= headers {
        return length + ETHERNET;
    }
    let payload = length - headers;
    payload + payload.div_ceil(segment) * (headers + ETHERNET)
}

#[allow(unsafe_code, clippy::cast_possible_truncation)]
fn attach(file: &File, name: &str) -> io::Result<()> {
    const OFFLOADS: libc::c_uint = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6;

    if name.len() >= libc::IFNAMSIZ {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the device's name is too long"));
    }
    // SAFETY: an all-zero `ifreq` is a valid one: it holds arrays, integers and pointers that may be null.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    // The flags fit in a short: the largest is 0x4000.
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one `ifreq`, which outlives the call; the descriptor is open.
    if unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: TUNSETOFFLOAD takes its argument by value.
    if unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(OFFLOADS)) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(kind: u8, headers: u16, segment: u16, length: usize) -> Vec<u8> {
        let mut packet = vec![0, kind];
        packet.extend(headers.to_le_bytes());
        packet.extend(segment.to_le_bytes());
        packet.resize(HEADER + length, 0);
        packet
    }

    #[test]
    fn a_large_packet_counts_as_its_segments() {
        for (packet, expected) in [
            (packet(0, 0, 0, 52), 52 + 38),
            (packet(0, 52, 1448, 1500), 1500 + 38),
            (packet(1, 52, 1448, 52 + 1448), 1448 + 52 + 38),
            (packet(1, 52, 1448, 52 + 1449), 1449 + 2 * (52 + 38)),
            (packet(1, 52, 1448, 52 + 14480), 14480 + 10 * (52 + 38)),
            (packet(1, 52, 0, 100), 138),
            (vec![], 38),
        ] {
            assert_eq!(wire_bytes(&packet), expected);
        }
    }
}

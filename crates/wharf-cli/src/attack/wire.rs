//! What attackers send: good and bad bytes of each framing.

use wharf::framing::{self, Packet};

use super::Harm;
use crate::network;
use crate::settings::Framing;

/// The bytes of one attack.
#[derive(Clone, Debug)]
pub(crate) struct Wire {
    /// A whole good message, or a login.
    pub(crate) message: Vec<u8>,
    /// The start of a message that is as long as the framing can say.
    pub(crate) oversize: Vec<u8>,
    /// A message without anything in it.
    pub(crate) empty: Vec<u8>,
}

impl Wire {
    /// # Errors
    /// The framing has no such thing.
    pub(crate) fn new(harm: Harm, framing: Framing) -> Result<Self, String> {
        let header = match framing {
            Framing::Study => 12,
            Framing::Tutorial => 5,
            Framing::U16be | Framing::U16le => 2,
            Framing::U32be | Framing::U32le => 4,
            Framing::Lines | Framing::Raw => 0,
        };
        let needs_frames = matches!(harm, Harm::Oversize | Harm::ZeroLength | Harm::Slowloris);
        if needs_frames && framing == Framing::Raw {
            return Err(
                "raw framing has no messages that could be too long, empty or slow".to_owned()
            );
        }
        if harm == Harm::LoginCut && framing != Framing::Tutorial {
            return Err(format!("only tutorial framing has a login to leave, not {framing}"));
        }
        let is_login = harm == Harm::LoginCut;
        let body: Vec<u8> = if is_login { login() } else { vec![b'x'; MESSAGE_BYTES] };
        let id = match framing {
            _ if is_login => LOGIN,
            Framing::Study | Framing::Tutorial => network::STUDY_ECHO_ID,
            _ => 0,
        };
        let mut message = Vec::new();
        let packet = Packet { id, session: 0, body: &body };
        framing::append(&network::any_framing(framing), packet, &mut message)
            .map_err(|error| error.to_string())?;
        // The length field comes first in every framing that has one. All ones is the longest there
        // is, whichever end comes first; so is all zeros the shortest, shorter than its own header.
        let width = if header == 2 || framing == Framing::Tutorial { 2 } else { 4 };
        let (oversize, empty) = if header == 0 {
            (vec![b'x'; MESSAGE_BYTES], b"\n".to_vec())
        } else {
            let mut longest = vec![0; header];
            longest[..width].fill(0xff);
            (longest, vec![0; header])
        };
        Ok(Self { message, oversize, empty })
    }
}

/// Name and password of nobody.
fn login() -> Vec<u8> {
    let mut body = vec![0; 66];
    body[..8].copy_from_slice(b"stranger");
    body[33..35].copy_from_slice(b"pw");
    body
}

const MESSAGE_BYTES: usize = 64;
const LOGIN: u32 = 201;

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    use super::*;

    #[test]
    fn every_attack_has_its_bytes_or_says_why_not() {
        for framing in Framing::value_variants() {
            for harm in Harm::value_variants() {
                match Wire::new(*harm, *framing) {
                    Ok(wire) => assert!(!wire.message.is_empty() && !wire.empty.is_empty()),
                    Err(why) => assert!(why.contains("framing"), "{harm:?} {framing}: {why}"),
                }
            }
        }
        let study = Wire::new(Harm::Oversize, Framing::Study).unwrap();
        assert_eq!(
            (study.oversize.len(), &study.oversize[..5]),
            (12, &[255, 255, 255, 255, 0][..])
        );
        let tutorial = Wire::new(Harm::Oversize, Framing::Tutorial).unwrap();
        assert_eq!(tutorial.oversize, [255, 255, 0, 0, 0]);
        assert_eq!(Wire::new(Harm::LoginCut, Framing::Tutorial).unwrap().message.len(), 71);
        assert!(Wire::new(Harm::LoginCut, Framing::Study).is_err());
    }
}

//! What a packet of the chat says, for people and as JSON. Pure code.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use wharf::packet::{DecodeError, Packet as _};
use wharf_chat::packets::{
    ChatNotify, ChatRequest, ChatResponse, EnterRequest, EnterResponse, LeaveRequest,
    LeaveResponse, LoginRequest, LoginResponse, Outcome, UserEntered, UserLeft, UserList,
};

/// A packet from the server.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Seen {
    Login { result: u16 },
    Enter { result: i16 },
    Leave { result: i16 },
    Chat { result: i16 },
    Said { user: String, text: String },
    List { users: Vec<(i64, String)> },
    Entered { unique_id: i64, user: String },
    Left { unique_id: i64 },
    Unknown { id: u32 },
}

impl Seen {
    /// # Errors
    /// The body is not what the id says.
    pub(super) fn of(id: u32, body: &[u8]) -> Result<Self, DecodeError> {
        Ok(match id {
            LoginResponse::ID => Self::Login { result: LoginResponse::decode(body)?.result },
            EnterResponse::ID => Self::Enter { result: EnterResponse::decode(body)?.result },
            LeaveResponse::ID => Self::Leave { result: LeaveResponse::decode(body)?.result },
            ChatResponse::ID => Self::Chat { result: ChatResponse::decode(body)?.result },
            ChatNotify::ID => {
                let said = ChatNotify::decode(body)?;
                Self::Said { user: said.id.to_string(), text: said.text.to_string() }
            }
            UserList::ID => {
                let users = UserList::decode(body)?.users.into_iter();
                Self::List {
                    users: users.map(|user| (user.unique_id, user.id.to_string())).collect(),
                }
            }
            UserEntered::ID => {
                let user = UserEntered::decode(body)?.user;
                Self::Entered { unique_id: user.unique_id, user: user.id.to_string() }
            }
            UserLeft::ID => Self::Left { unique_id: UserLeft::decode(body)?.unique_id },
            id => Self::Unknown { id },
        })
    }

    pub(super) fn json(&self) -> Value {
        match self {
            Self::Login { result } => json!({ "id": 202, "packet": "login", "result": result }),
            Self::Enter { result } => json!({ "id": 207, "packet": "enter", "result": result }),
            Self::Leave { result } => json!({ "id": 216, "packet": "leave", "result": result }),
            Self::Chat { result } => json!({ "id": 222, "packet": "chat", "result": result }),
            Self::Said { user, text } => {
                json!({ "id": 223, "packet": "said", "user": user, "text": text })
            }
            Self::List { users } => {
                let users: Vec<Value> = (users.iter())
                    .map(|(unique_id, user)| json!({ "unique_id": unique_id, "user": user }))
                    .collect();
                json!({ "id": 209, "packet": "list", "users": users })
            }
            Self::Entered { unique_id, user } => {
                json!({ "id": 208, "packet": "entered", "unique_id": unique_id, "user": user })
            }
            Self::Left { unique_id } => {
                json!({ "id": 217, "packet": "left", "unique_id": unique_id })
            }
            Self::Unknown { id } => json!({ "id": id, "packet": "unknown" }),
        }
    }

    /// For people; `None` where they need not be told. `present` is who is in the room.
    pub(super) fn text(&self, present: &BTreeMap<i64, String>) -> Option<String> {
        let refused = |what: &str, request: u32, code: u16| match Outcome::from_code(code) {
            Some(outcome) => format!("* {what}: {} ({code})", outcome.text(request)),
            None => format!("* {what}: {code}"),
        };
        let unsigned = |result: &i16| u16::try_from(*result).unwrap_or(u16::MAX);
        Some(match self {
            Self::Login { result: 0 } => "* logged in; /enter N enters a room".to_owned(),
            Self::Login { result } => refused("not logged in", LoginRequest::ID, *result),
            Self::Enter { result: 0 } => "* in the room".to_owned(),
            Self::Enter { result } => refused("not entered", EnterRequest::ID, unsigned(result)),
            Self::Leave { result: 0 } => "* left the room".to_owned(),
            Self::Leave { result } => refused("not left", LeaveRequest::ID, unsigned(result)),
            Self::Chat { result: 0 } => return None,
            Self::Chat { result } => refused("not said", ChatRequest::ID, unsigned(result)),
            Self::Said { user, text } => format!("{}: {}", printable(user), printable(text)),
            Self::List { users } => {
                let names: Vec<String> = users.iter().map(|(_, user)| printable(user)).collect();
                format!("* here: {}", names.join(", "))
            }
            Self::Entered { user, .. } => format!("* {} has come", printable(user)),
            Self::Left { unique_id } => {
                let user = present.get(unique_id).map_or("somebody", String::as_str);
                format!("* {} has gone", printable(user))
            }
            Self::Unknown { id } => format!("* a packet with the unknown id {id}"),
        })
    }
}

/// What others wrote moves no cursor, rings no bell, and turns no line around.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if wharf_chat::commands_terminal(c) { '\u{FFFD}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use wharf::packet::TextRef;

    use super::*;

    #[test]
    fn what_others_write_does_nothing_to_the_terminal() {
        let id = TextRef::new("a\u{1b}[2J").unwrap();
        let text = TextRef::new("한글 👋🏽\r\nroot: hi\u{9b}31m\u{2028}\u{202e}").unwrap();
        let body = ChatNotify { id, text }.to_vec();
        let seen = Seen::of(223, &body).unwrap();
        let line = seen.text(&BTreeMap::new()).unwrap();
        assert_eq!(
            line,
            "a\u{FFFD}[2J: 한글 👋🏽\u{FFFD}\u{FFFD}root: hi\u{FFFD}31m\u{FFFD}\u{FFFD}"
        );
        assert_eq!(seen.json()["text"], "한글 👋🏽\r\nroot: hi\u{9b}31m\u{2028}\u{202e}");
    }

    #[test]
    fn every_packet_has_a_line() {
        let present = BTreeMap::from([(7, "user0".to_owned())]);
        for (id, body, line) in [
            (202, &[0, 0][..], Some("* logged in; /enter N enters a room")),
            (202, &[33, 0], Some("* not logged in: unknown id or wrong password (33)")),
            (207, &[54, 0], Some("* not entered: the room is full (54)")),
            (207, &[0xFF, 0xFF], Some("* not entered: 65535")),
            (216, &[0, 0], Some("* left the room")),
            (216, &[61, 0], Some("* not left: in no room (61)")),
            (207, &[61, 0], Some("* not entered: no such room (61)")),
            (222, &[63, 0], Some("* not said: too many packets: try again later (63)")),
            (222, &[0, 0], None),
            (217, &[7, 0, 0, 0, 0, 0, 0, 0], Some("* user0 has gone")),
            (999, &[], Some("* a packet with the unknown id 999")),
        ] {
            let text = Seen::of(id, body).unwrap().text(&present);
            assert_eq!(text.as_deref(), line);
        }
        assert!(Seen::of(202, &[0]).is_err());
        let busy = Seen::of(202, &[63, 0]).unwrap().text(&present).unwrap();
        assert!(busy.starts_with("* not logged in: too many logins"), "{busy}");
    }
}

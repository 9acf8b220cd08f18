//! What a session is to the chat: connected, logged in, or in a room. Pure code: it says what may be
//! done and what the answer is, and does nothing itself.

use wharf::SessionId;

use crate::{
    packets::{Name, Outcome},
    rate::Bucket,
};

/// The chat's data of one session.
#[derive(Debug, Default)]
pub struct User {
    stage: Stage,
    identity: Option<Identity>,
    pub(crate) bucket: Bucket,
}

/// Who a session has logged in as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The session.
    pub session: SessionId,
    /// Different for each login, as long as the server runs.
    pub unique_id: i64,
    /// The user's name.
    pub name: Name,
}

/// How far a session has come. While something is pending (`LoggingIn`, `Entering`, `Leaving`) the
/// session is held: no frame of it is handled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Not logged in.
    #[default]
    Connected,
    /// The store is being asked.
    LoggingIn,
    /// Logged in, in no room.
    LoggedIn,
    /// The room has been asked.
    Entering {
        /// Its number.
        room: u32,
    },
    /// In a room.
    InRoom {
        /// Its number.
        room: u32,
    },
    /// The room has been told.
    Leaving {
        /// Its number.
        room: u32,
    },
    /// The session is over.
    Gone,
}

impl Stage {
    /// Whether `next` may follow.
    #[must_use]
    pub fn may_become(self, next: Stage) -> bool {
        use Stage::{Connected, Entering, Gone, InRoom, Leaving, LoggedIn, LoggingIn};
        match (self, next) {
            (Gone, _) => false,
            (_, Gone)
            | (Connected, LoggingIn)
            | (LoggingIn, Connected | LoggedIn)
            | (LoggedIn, Entering { .. })
            | (Entering { .. } | Leaving { .. }, LoggedIn) => true,
            (Entering { room } | Leaving { room }, InRoom { room: next })
            | (InRoom { room }, Leaving { room: next }) => room == next,
            _ => false,
        }
    }

    /// Whether an answer is awaited, and the session held until it is there.
    #[must_use]
    pub fn is_pending(self) -> bool {
        matches!(self, Stage::LoggingIn | Stage::Entering { .. } | Stage::Leaving { .. })
    }

    /// The room that may have a seat for the session.
    #[must_use]
    pub fn room(self) -> Option<u32> {
        match self {
            Stage::Entering { room } | Stage::InRoom { room } | Stage::Leaving { room } => {
                Some(room)
            }
            _ => None,
        }
    }
}

impl User {
    /// How far it has come.
    #[must_use]
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// Who it is, once logged in.
    #[must_use]
    pub fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }

    /// Whether it may log in.
    ///
    /// # Errors
    /// The answer, if not.
    pub fn can_log_in(&self) -> Result<(), Outcome> {
        match self.settled() {
            Stage::Connected => Ok(()),
            _ => Err(Outcome::AlreadyLoggedIn),
        }
    }

    /// A login is asked for: the store is to be asked.
    ///
    /// # Errors
    /// The answer, if it is not.
    pub fn begin_login(&mut self) -> Result<(), Outcome> {
        self.can_log_in()?;
        self.become_(Stage::LoggingIn);
        Ok(())
    }

    /// The store has answered, and the name is taken for this session: or the login failed.
    pub fn end_login(&mut self, identity: Option<Identity>) {
        self.become_(if identity.is_some() { Stage::LoggedIn } else { Stage::Connected });
        self.identity = identity;
    }

    /// Entering a room is asked for: the room is to be asked.
    ///
    /// # Errors
    /// The answer, if it is not.
    pub fn begin_enter(&mut self, room: i32, rooms: u32) -> Result<(Identity, u32), Outcome> {
        match (self.settled(), self.identity) {
            (Stage::InRoom { .. }, _) => Err(Outcome::AlreadyInRoom),
            (Stage::LoggedIn, Some(identity)) => {
                let room = u32::try_from(room).ok().filter(|room| *room < rooms);
                let room = room.ok_or(Outcome::NoSuchRoom)?;
                self.become_(Stage::Entering { room });
                Ok((identity, room))
            }
            _ => Err(Outcome::NotLoggedIn),
        }
    }

    /// The room has answered: whether there was a seat.
    pub fn end_enter(&mut self, entered: bool) {
        self.become_(match self.stage {
            Stage::Entering { room } if entered => Stage::InRoom { room },
            _ => Stage::LoggedIn,
        });
    }

    /// Leaving is asked for: the room is to be told.
    ///
    /// # Errors
    /// The answer, if it is not.
    pub fn begin_leave(&mut self) -> Result<(Identity, u32), Outcome> {
        match (self.settled(), self.identity) {
            (Stage::InRoom { room }, Some(identity)) => {
                self.become_(Stage::Leaving { room });
                Ok((identity, room))
            }
            _ => Err(Outcome::NoSuchRoom),
        }
    }

    /// The room has let it go.
    pub fn end_leave(&mut self) {
        self.become_(Stage::LoggedIn);
    }

    /// The room could not be told of it.
    pub fn stay(&mut self) {
        self.become_(match self.stage {
            Stage::Leaving { room } => Stage::InRoom { room },
            other => other,
        });
    }

    /// Who says something, and in which room.
    ///
    /// # Errors
    /// The answer, outside a room.
    pub fn speaks(&self) -> Result<(Identity, u32), Outcome> {
        match (self.settled(), self.identity) {
            (Stage::InRoom { room }, Some(identity)) => Ok((identity, room)),
            _ => Err(Outcome::CannotChat),
        }
    }

    /// The session is over: who it was, and the room that is to be told.
    pub fn end(&mut self) -> Option<(Identity, Option<u32>)> {
        let room = self.stage.room();
        self.become_(Stage::Gone);
        self.identity.take().map(|identity| (identity, room))
    }

    /// The stage, for a frame: there is none while something is pending.
    fn settled(&self) -> Stage {
        assert!(!self.stage.is_pending(), "a frame came in {:?}: the session is held", self.stage);
        self.stage
    }

    fn become_(&mut self, next: Stage) {
        assert!(self.stage.may_become(next), "{:?} cannot become {next:?}", self.stage);
        self.stage = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        let session = SessionId::from_u64(2);
        Identity { session, unique_id: 7, name: Name::new("user0").unwrap() }
    }

    fn logged_in() -> User {
        let mut user = User::default();
        user.begin_login().unwrap();
        user.end_login(Some(identity()));
        user
    }

    fn in_room(room: i32) -> User {
        let mut user = logged_in();
        user.begin_enter(room, 10).unwrap();
        user.end_enter(true);
        user
    }

    #[test]
    fn the_way_into_a_room_and_back() {
        let mut user = in_room(3);
        assert_eq!(user.stage(), Stage::InRoom { room: 3 });
        assert_eq!(user.speaks(), Ok((identity(), 3)));
        assert_eq!(user.begin_leave(), Ok((identity(), 3)));
        user.end_leave();
        assert_eq!(user.stage(), Stage::LoggedIn);
        assert_eq!(user.begin_enter(9, 10), Ok((identity(), 9)));
        user.end_enter(false);
        assert_eq!(user.stage(), Stage::LoggedIn);
    }

    #[test]
    fn what_is_not_due_is_answered_and_changes_nothing() {
        let mut connected = User::default();
        assert_eq!(connected.begin_enter(0, 10), Err(Outcome::NotLoggedIn));
        assert_eq!(connected.begin_leave(), Err(Outcome::NoSuchRoom));
        assert_eq!(connected.speaks(), Err(Outcome::CannotChat));
        assert_eq!(connected.stage(), Stage::Connected);

        let mut user = logged_in();
        assert_eq!(user.begin_login(), Err(Outcome::AlreadyLoggedIn));
        assert_eq!(user.begin_leave(), Err(Outcome::NoSuchRoom));
        assert_eq!(user.speaks(), Err(Outcome::CannotChat));
        for room in [-1, 10, i32::MAX, i32::MIN] {
            assert_eq!(user.begin_enter(room, 10), Err(Outcome::NoSuchRoom), "{room}");
        }
        assert_eq!(user.stage(), Stage::LoggedIn);

        let mut user = in_room(0);
        assert_eq!(user.begin_login(), Err(Outcome::AlreadyLoggedIn));
        assert_eq!(user.begin_enter(0, 10), Err(Outcome::AlreadyInRoom));
        assert_eq!(user.begin_enter(1, 10), Err(Outcome::AlreadyInRoom));
        assert_eq!(user.stage(), Stage::InRoom { room: 0 });
    }

    #[test]
    fn a_login_that_failed_may_be_tried_again() {
        let mut user = User::default();
        user.begin_login().unwrap();
        user.end_login(None);
        assert_eq!((user.stage(), user.identity()), (Stage::Connected, None));
        user.begin_login().unwrap();
    }

    /// Also one whose seat is not yet given, or not yet taken back.
    #[test]
    fn whoever_goes_names_the_room_that_may_have_a_seat_for_him() {
        assert_eq!(User::default().end(), None);
        let mut pending = User::default();
        pending.begin_login().unwrap();
        assert_eq!(pending.end(), None);
        assert_eq!(logged_in().end(), Some((identity(), None)));
        let mut entering = logged_in();
        entering.begin_enter(4, 10).unwrap();
        let mut leaving = in_room(4);
        leaving.begin_leave().unwrap();
        for mut user in [entering, in_room(4), leaving] {
            assert_eq!(user.end(), Some((identity(), Some(4))));
            assert_eq!(user.stage(), Stage::Gone);
        }
    }

    #[test]
    #[should_panic(expected = "a frame came in LoggingIn: the session is held")]
    fn no_frame_is_handled_while_something_is_pending() {
        let mut user = User::default();
        user.begin_login().unwrap();
        let _ = user.begin_login();
    }

    #[test]
    fn no_stage_is_skipped() {
        use Stage::{Connected, Entering, Gone, InRoom, Leaving, LoggedIn, LoggingIn};
        let (a, b) = (1, 2);
        let stages = [
            Connected,
            LoggingIn,
            LoggedIn,
            Entering { room: a },
            InRoom { room: a },
            InRoom { room: b },
            Leaving { room: a },
            Gone,
        ];
        let allowed = |from: Stage| stages.iter().filter(|next| from.may_become(**next)).count();
        assert_eq!(stages.map(allowed), [2, 3, 2, 3, 2, 1, 3, 0]);
        assert!(!Connected.may_become(LoggedIn) && !LoggedIn.may_become(InRoom { room: a }));
        assert!(!Entering { room: a }.may_become(InRoom { room: b }));
    }
}

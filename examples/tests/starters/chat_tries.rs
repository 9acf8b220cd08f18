//! The starters of the chat.

use std::sync::Arc;

use wharf::{Server, framing::LengthField};

use crate::{
    guest::{ADDRESS, Guest, simulate},
    step08,
    tries::attempt,
};

#[test]
fn step_8_gives_a_name_to_one_user() {
    attempt(8, || {
        let router = step08::chat::router();
        let online = Arc::new(step08::online::Online::default());
        let chat = move || router.handler(step08::chat::Chat { online: Arc::clone(&online) });
        let server = Server::builder().listen(ADDRESS, LengthField::TUTORIAL, chat);
        let mut sim = simulate(server, 8);
        let [mut ann, mut bob] = [(); 2].map(|()| Guest::connect(&mut sim));
        assert_eq!(ann.login(&mut sim, "ann"), 0);
        assert_eq!(bob.login(&mut sim, "ann"), 31, "somebody has the name");
        ann.leave(&mut sim);
        assert_eq!(bob.login(&mut sim, "ann"), 0, "free again");
        sim.finish();
    });
}

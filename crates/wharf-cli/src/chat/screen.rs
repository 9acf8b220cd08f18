//! The chat on the whole screen: what was said, who is there, how things stand, and the line that is
//! being typed.

use std::io;

use anyhow::{Context as _, Result};
use ratatui::crossterm::event::{
    DisableBracketedPaste, EnableBracketedPaste, Event, KeyCode, KeyEvent, KeyEventKind,
    KeyModifiers,
};
use ratatui::crossterm::execute;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Paragraph};
use ratatui::{DefaultTerminal, Frame};

use super::client::{Link, Status, Typed, View};
use super::input::{Input, cells};
use super::log::{Entry, Log};
use super::packets::{Seen, printable};

/// The terminal, which is given back when this is dropped.
pub(super) struct Screen {
    terminal: DefaultTerminal,
    room: Room,
}

/// What is shown.
#[derive(Default)]
struct Room {
    log: Log,
    input: Input,
    /// Where the log was drawn last: what a page is.
    log_area: Rect,
}

impl Screen {
    /// # Errors
    /// The terminal does not do what this needs.
    pub(super) fn open() -> Result<Self> {
        // It may have come half of the way.
        let terminal = ratatui::try_init().inspect_err(|_| ratatui::restore());
        let terminal = terminal.context("the terminal; --lines needs nothing of it")?;
        // What is pasted comes as one, and its line ends send nothing; not every terminal can.
        let _ = execute!(io::stdout(), EnableBracketedPaste);
        Ok(Self { terminal, room: Room::default() })
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = execute!(io::stdout(), DisableBracketedPaste);
        ratatui::restore();
    }
}

impl View for Screen {
    fn seen(&mut self, seen: &Seen, status: &Status) {
        self.room.seen(seen, status);
    }

    fn note(&mut self, _: &str, text: &str) {
        self.room.note(format!("* {}", printable(text)));
    }

    fn typed(&mut self, event: &Event) -> Option<Typed> {
        self.room.typed(event)
    }

    fn draw(&mut self, status: &Status) -> Result<()> {
        self.terminal.draw(|frame| self.room.draw(frame, status)).context("the terminal")?;
        Ok(())
    }
}

impl Room {
    fn seen(&mut self, seen: &Seen, status: &Status) {
        match seen {
            Seen::Said { user, text } => {
                let user = printable(user);
                let text = format!("{user}: {}", printable(text));
                self.log.push(Entry { text, speaker: user.len(), is_note: false });
            }
            seen => seen.text(&status.present).into_iter().for_each(|text| self.note(text)),
        }
    }

    fn note(&mut self, text: String) {
        self.log.push(Entry { text, speaker: 0, is_note: true });
    }

    fn typed(&mut self, event: &Event) -> Option<Typed> {
        match event {
            Event::Key(key) if key.kind != KeyEventKind::Release => self.key(*key),
            Event::Paste(text) => {
                self.input.insert(text);
                None
            }
            // Another size is drawn in any case.
            _ => None,
        }
    }

    fn key(&mut self, key: KeyEvent) -> Option<Typed> {
        let (width, height) = (self.log_area.width.into(), self.log_area.height.into());
        let input = &mut self.input;
        // Where AltGr types characters, it comes as both of them.
        let is_control =
            key.modifiers & (KeyModifiers::CONTROL | KeyModifiers::ALT) == KeyModifiers::CONTROL;
        match key.code {
            KeyCode::Char('c' | 'd') if is_control => return Some(Typed::Quit),
            KeyCode::Char('a') if is_control => input.start(),
            KeyCode::Char('e') if is_control => input.end(),
            KeyCode::Char('u') if is_control => input.delete_to_start(),
            KeyCode::Char('w') if is_control => input.delete_word(),
            KeyCode::Char(_) if is_control => {}
            KeyCode::Char(c) => input.insert(c.encode_utf8(&mut [0; 4])),
            KeyCode::Enter => {
                self.log.newest();
                return Some(Typed::Line(input.take()));
            }
            KeyCode::Backspace => input.backspace(),
            KeyCode::Delete => input.delete(),
            KeyCode::Left => input.left(),
            KeyCode::Right => input.right(),
            KeyCode::Home => input.start(),
            KeyCode::End => input.end(),
            KeyCode::Up => input.older(),
            KeyCode::Down => input.newer(),
            KeyCode::PageUp => self.log.page_up(width, height),
            KeyCode::PageDown => self.log.page_down(width, height),
            KeyCode::Esc => self.log.newest(),
            _ => {}
        }
        None
    }

    fn draw(&mut self, frame: &mut Frame<'_>, status: &Status) {
        let rows = [Constraint::Fill(1), Constraint::Length(1), Constraint::Length(1)];
        let [above, status_area, input_area] = Layout::vertical(rows).areas(frame.area());
        let members_width = if above.width < WIDTH_WITH_MEMBERS_MIN { 0 } else { MEMBERS_WIDTH };
        let columns = [Constraint::Fill(1), Constraint::Length(members_width)];
        let [log_area, members_area] = Layout::horizontal(columns).areas(above);
        self.log_area = log_area;
        self.draw_log(frame, log_area);
        draw_members(frame, members_area, status);
        self.draw_status(frame, status_area, status);
        self.draw_input(frame, input_area);
    }

    fn draw_log(&self, frame: &mut Frame<'_>, area: Rect) {
        let rows = self.log.shown(area.width.into(), area.height.into());
        let lines = rows.into_iter().map(|(entry, row)| {
            let speaker = entry.speaker.clamp(row.start, row.end);
            let style = match entry.is_note {
                true => Style::new().add_modifier(Modifier::DIM),
                false => Style::new(),
            };
            Line::from(vec![
                Span::styled(&entry.text[row.start..speaker], style.add_modifier(Modifier::BOLD)),
                Span::styled(&entry.text[speaker..row.end], style),
            ])
        });
        frame.render_widget(Paragraph::new(lines.collect::<Vec<_>>()), area);
    }

    fn draw_status(&self, frame: &mut Frame<'_>, area: Rect, status: &Status) {
        let place = match (status.link, status.room) {
            (Link::LoggingIn, _) => "logging in".to_owned(),
            (Link::Lost, _) => "not connected, trying again".to_owned(),
            (Link::Online, None) => "in no room: /enter N".to_owned(),
            (Link::Online, Some(room)) => format!("room {room}, {} here", status.present.len()),
        };
        let left = format!(" {} at {}  {place}", printable(&status.user), status.address);
        let mut right = String::new();
        if self.log.below() > 0 {
            right = format!("{} below (Esc) ", self.log.below());
        } else if self.input.room() <= ROOM_SHOWN_MAX {
            right = format!("{} bytes left ", self.input.room());
        }
        let gap = usize::from(area.width).saturating_sub(cells(&left) + cells(&right));
        let text = format!("{left}{}{right}", " ".repeat(gap));
        let style = Style::new().add_modifier(Modifier::REVERSED);
        frame.render_widget(Paragraph::new(text).style(style), area);
    }

    fn draw_input(&self, frame: &mut Frame<'_>, area: Rect) {
        let width = usize::from(area.width).saturating_sub(PROMPT.len());
        let (text, cursor) = self.input.shown(width);
        frame.render_widget(Paragraph::new(format!("{PROMPT}{text}")), area);
        let column = u16::try_from(PROMPT.len() + cursor).unwrap_or(u16::MAX);
        // Where the cursor stands, terminals show what is being composed.
        let last = area.right().saturating_sub(1);
        frame.set_cursor_position((area.x.saturating_add(column).min(last), area.y));
    }
}

fn draw_members(frame: &mut Frame<'_>, area: Rect, status: &Status) {
    let block = Block::new().borders(Borders::LEFT);
    let inside = block.inner(area);
    frame.render_widget(block, area);
    let mut lines: Vec<Line<'_>> = (status.present.values())
        .map(|user| {
            let line = Line::from(printable(user));
            if *user == status.user { line.style(Modifier::BOLD) } else { line }
        })
        .collect();
    let height = usize::from(inside.height);
    if lines.len() > height && height > 0 {
        let more = lines.len() - (height - 1);
        lines.truncate(height - 1);
        lines.push(Line::from(format!("and {more} more")));
    }
    frame.render_widget(Paragraph::new(lines), inside);
}

const PROMPT: &str = "> ";
/// A name of 32 bytes in Korean takes 20 cells, and all but a few are shorter.
const MEMBERS_WIDTH: u16 = 21;
/// Where there are fewer cells, what is said needs all of them.
const WIDTH_WITH_MEMBERS_MIN: u16 = 60;
/// How near the end of a line is told.
const ROOM_SHOWN_MAX: usize = 50;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;

    fn status() -> Status {
        Status {
            user: "김철수".to_owned(),
            address: "127.0.0.1:11021".parse().unwrap(),
            link: Link::Online,
            room: Some(3),
            present: BTreeMap::from([(1, "user0".to_owned()), (7, "김철수".to_owned())]),
        }
    }

    fn said(user: &str, text: &str) -> Seen {
        Seen::Said { user: user.to_owned(), text: text.to_owned() }
    }

    /// The screen's rows without the blanks at their ends, and where the cursor is. The second cell of
    /// a wide character holds a space.
    fn drawn(
        room: &mut Room,
        status: &Status,
        width: u16,
        height: u16,
    ) -> (Vec<String>, (u16, u16)) {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| room.draw(frame, status)).unwrap();
        let buffer = terminal.backend().buffer().clone();
        let row = |y| {
            let mut row = String::new();
            let mut x = 0;
            while x < width {
                let symbol = buffer[(x, y)].symbol();
                row.push_str(symbol);
                x += u16::try_from(cells(symbol)).unwrap().max(1);
            }
            row.trim_end().to_owned()
        };
        let cursor = terminal.get_cursor_position().unwrap();
        ((0..height).map(row).collect(), (cursor.x, cursor.y))
    }

    fn press(room: &mut Room, code: KeyCode) -> Option<Typed> {
        room.typed(&Event::Key(KeyEvent::new(code, KeyModifiers::NONE)))
    }

    fn write(room: &mut Room, text: &str) {
        text.chars().for_each(|c| assert_eq!(press(room, KeyCode::Char(c)), None));
    }

    #[test]
    fn a_room_is_drawn_with_korean_and_emoji_in_their_cells() {
        let mut room = Room::default();
        let status = status();
        room.seen(&Seen::Enter { result: 0 }, &status);
        room.seen(&said("user0", "안녕하세요 👋🏽"), &status);
        room.seen(&said("김철수", "👨‍👩‍👧‍👦 ok"), &status);
        write(&mut room, "각 👋");
        let (rows, cursor) = drawn(&mut room, &status, 60, 6);
        assert_eq!(
            rows,
            [
                "* in the room                          │user0",
                "user0: 안녕하세요 👋🏽                   │김철수",
                "김철수: 👨‍👩‍👧‍👦 ok                          │",
                "                                       │",
                " 김철수 at 127.0.0.1:11021  room 3, 2 here",
                "> 각 👋",
            ]
        );
        assert_eq!(cursor, (2 + 5, 5), "two cells each, and a space");
    }

    #[test]
    fn what_is_said_is_broken_to_the_width_and_drawn_again_at_another() {
        let (mut room, status) = (Room::default(), status());
        room.seen(&said("user0", "one two three four five 여섯"), &status);
        let (rows, _) = drawn(&mut room, &status, 24, 6);
        assert_eq!(rows[..2], ["user0: one two three", "four five 여섯"], "{rows:?}");
        let (rows, _) = drawn(&mut room, &status, 50, 6);
        assert_eq!(rows[0], "user0: one two three four five 여섯", "and no members beside it");
        for (width, height) in [(1, 1), (2, 1), (1, 3), (3, 2), (60, 1), (60, 2), (200, 60)] {
            drawn(&mut room, &status, width, height);
        }
    }

    #[test]
    fn keys_move_what_is_seen_and_what_is_typed() {
        let (mut room, status) = (Room::default(), status());
        for number in 0..20 {
            room.seen(&said("user0", &number.to_string()), &status);
        }
        drawn(&mut room, &status, 40, 6);
        press(&mut room, KeyCode::PageUp);
        let (rows, _) = drawn(&mut room, &status, 40, 6);
        assert_eq!(rows[3], "user0: 16");
        let (rows, _) = drawn(&mut room, &status, 80, 6);
        assert!(rows[4].ends_with("3 below (Esc)"), "{rows:?}");
        press(&mut room, KeyCode::Esc);
        assert_eq!(drawn(&mut room, &status, 40, 6).0[3], "user0: 19");
        write(&mut room, "/enter 3x");
        press(&mut room, KeyCode::Backspace);
        press(&mut room, KeyCode::PageUp);
        let line = press(&mut room, KeyCode::Enter);
        assert_eq!(line, Some(Typed::Line("/enter 3".to_owned())));
        assert_eq!(drawn(&mut room, &status, 40, 6).0[3], "user0: 19", "one's own words are seen");
        press(&mut room, KeyCode::Up);
        assert_eq!(drawn(&mut room, &status, 40, 6).0[5], "> /enter 3");
        room.typed(&Event::Paste("\none\r\ntwo".to_owned()));
        assert_eq!(drawn(&mut room, &status, 40, 6).0[5], "> /enter 3 one two");
        let control = |c| Event::Key(KeyEvent::new(KeyCode::Char(c), KeyModifiers::CONTROL));
        room.typed(&control('w'));
        room.typed(&control('a'));
        assert_eq!(drawn(&mut room, &status, 40, 6).1, (2, 5));
        room.typed(&control('e'));
        room.typed(&control('u'));
        assert_eq!(drawn(&mut room, &status, 40, 6).0[5], ">");
        assert_eq!(room.typed(&control('c')), Some(Typed::Quit));
        let altgr = KeyModifiers::CONTROL | KeyModifiers::ALT;
        room.typed(&Event::Key(KeyEvent::new(KeyCode::Char('@'), altgr)));
        assert_eq!(drawn(&mut room, &status, 40, 6).0[5], "> @");
    }

    #[test]
    fn the_status_says_how_things_stand() {
        let mut room = Room::default();
        for (link, in_room, expected) in [
            (Link::LoggingIn, None, "logging in"),
            (Link::Online, None, "in no room: /enter N"),
            (Link::Online, Some(0), "room 0, 2 here"),
            (Link::Lost, Some(0), "not connected, trying again"),
        ] {
            let status = Status { link, room: in_room, ..status() };
            let (rows, _) = drawn(&mut room, &status, 80, 5);
            assert!(rows[3].ends_with(expected), "{rows:?}");
        }
        write(&mut room, &"x".repeat(250));
        let (rows, cursor) = drawn(&mut room, &status(), 80, 5);
        assert!(rows[3].ends_with("6 bytes left") && cursor == (79, 4), "{rows:?}");
    }

    #[test]
    fn more_members_than_rows_are_counted() {
        let present = (0..9).map(|user| (user, format!("user{user}"))).collect();
        let (rows, _) = drawn(&mut Room::default(), &Status { present, ..status() }, 60, 5);
        let members: Vec<&str> =
            rows[..3].iter().map(|row| row.split_once('│').unwrap().1).collect();
        assert_eq!(members, ["user0", "user1", "and 7 more"]);
    }

    #[test]
    fn what_others_write_does_nothing_to_the_terminal() {
        let mut room = Room::default();
        room.seen(&said("a\u{1b}[2J", "b\r\nroot: hi"), &status());
        let (rows, _) = drawn(&mut room, &status(), 40, 4);
        assert_eq!(rows[0], "a\u{FFFD}[2J: b\u{FFFD}\u{FFFD}root: hi");
    }
}

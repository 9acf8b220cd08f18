//! A file of users to import: lines of `name,password`.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use csv::{ByteRecord, StringRecord};

/// One of them.
#[derive(Debug, PartialEq)]
pub(super) struct User {
    /// Where it is in the file, from 1.
    pub(super) line: usize,
    pub(super) name: String,
    pub(super) password: String,
}

/// The users that a file lists.
///
/// # Errors
/// The file cannot be read, or has lines that are none: then it is probably meant in another way, and
/// nobody of it is added.
pub(super) fn read(path: &Path) -> Result<Vec<User>> {
    let shown = path.display();
    let bytes = fs::read(path).with_context(|| format!("reading {shown}"))?;
    let List { users, wrong } = parse(&bytes)?;
    if wrong.is_empty() {
        return Ok(users);
    }
    let told: String = wrong
        .iter()
        .take(TOLD_MAX)
        .map(|(line, how)| format!("\n  {shown}:{line}: {how}"))
        .collect();
    let more = match wrong.len().saturating_sub(TOLD_MAX) {
        0 => String::new(),
        more => format!("\n  and {more} more"),
    };
    bail!(
        "nobody was added, as not every line of {shown} is `name,password` (a field that holds a comma \
         is put between double quotes, and a double quote in it is written twice):{told}{more}"
    )
}

/// What a file says.
#[derive(Default)]
struct List {
    users: Vec<User>,
    /// Lines that are no user, with what they are.
    wrong: Vec<(usize, String)>,
}

fn parse(bytes: &[u8]) -> Result<List> {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(bytes);
    let mut list = List::default();
    for record in reader.byte_records() {
        let record = record?;
        let line = line_of(&record, bytes);
        match fields_of(record) {
            Ok((name, password)) => list.users.push(User { line, name, password }),
            Err(how) => list.wrong.push((line, how)),
        }
    }
    Ok(list)
}

/// The line on which a record begins: its place is before the empty lines that were left out.
fn line_of(record: &ByteRecord, bytes: &[u8]) -> usize {
    let Some(place) = record.position() else { return 0 };
    let behind = bytes.get(place.byte() as usize..).unwrap_or_default();
    let empty = behind.iter().take_while(|byte| matches!(byte, b'\r' | b'\n'));
    place.line() as usize + empty.filter(|byte| **byte == b'\n').count()
}

fn fields_of(record: ByteRecord) -> Result<(String, String), String> {
    let record = StringRecord::from_byte_record(record)
        .map_err(|_| "text that is not UTF-8: save the file as UTF-8".to_owned())?;
    match record.len() {
        2 => Ok((record[0].to_owned(), record[1].to_owned())),
        1 => Err("1 field where 2 are expected: the password is missing".to_owned()),
        fields => Err(format!("{fields} fields where 2 are expected")),
    }
}

/// Wrong lines that are told; a file of another kind has nothing else.
const TOLD_MAX: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_have_the_line_that_they_are_on() {
        let List { users, wrong } = parse(b"a,1\n\n\r\n\"b,c\",\"2\"\"\"\r\nd,").unwrap();
        let user = |line, name: &str, password: &str| User {
            line,
            name: name.to_owned(),
            password: password.to_owned(),
        };
        assert_eq!(users, [user(1, "a", "1"), user(4, "b,c", "2\""), user(5, "d", "")]);
        assert_eq!(wrong, []);
    }

    #[test]
    fn each_line_that_is_none_is_told_with_what_was_expected() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users.csv");
        fs::write(&path, b"a,1\nb\nc,2,3\n\n\xff,4\nd,5\n").unwrap();
        let error = read(&path).unwrap_err().to_string();
        for expected in [
            "nobody was added",
            "is `name,password`",
            "users.csv:2: 1 field where 2 are expected: the password is missing\n",
            "users.csv:3: 3 fields where 2 are expected\n",
            "users.csv:5: text that is not UTF-8",
        ] {
            assert!(error.contains(expected), "{expected}: {error}");
        }
        assert!(!error.contains("more") && !error.contains("CSV"), "{error}");
        fs::write(&path, "x\n".repeat(TOLD_MAX + 7)).unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.ends_with("and 7 more") && error.lines().count() == TOLD_MAX + 2, "{error}");
    }
}

//! Files in, an archive out: in one folder, sorted, of no owner and of one time, so that the same files
//! give the same bytes.

use std::{
    fs,
    io::{Cursor, Write as _},
    path::Path,
};

use anyhow::{Context as _, Result};
use flate2::{Compression, GzBuilder, read::GzDecoder};
use sha2::{Digest as _, Sha256};
use zip::{ZipArchive, ZipWriter, write::SimpleFileOptions};

/// 1 January 1980, the first that a zip file can name: seconds since 1970.
const MODIFIED: u64 = 315_532_800;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    TarGz,
    Zip,
}

impl Form {
    pub(super) fn ending(self) -> &'static str {
        match self {
            Form::TarGz => "tar.gz",
            Form::Zip => "zip",
        }
    }
}

/// One file of an archive, its name relative to the archive's folder.
#[derive(PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: String,
    bytes: Vec<u8>,
    mode: u32,
}

impl Entry {
    pub(super) fn file(name: &str, bytes: impl Into<Vec<u8>>) -> Entry {
        Entry { name: name.to_owned(), bytes: bytes.into(), mode: 0o644 }
    }

    /// What it says, if it is text.
    pub(super) fn text(&self) -> Option<&str> {
        std::str::from_utf8(&self.bytes).ok()
    }

    pub(super) fn program(name: &str, bytes: Vec<u8>) -> Entry {
        Entry { mode: 0o755, ..Entry::file(name, bytes) }
    }
}

/// All entries in a folder of that name.
pub(super) fn pack(form: Form, folder: &str, entries: &[Entry]) -> Result<Vec<u8>> {
    let mut sorted: Vec<&Entry> = entries.iter().collect();
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    match form {
        Form::TarGz => tar_gz(folder, &sorted),
        Form::Zip => zip(folder, &sorted),
    }
}

fn tar_gz(folder: &str, entries: &[&Entry]) -> Result<Vec<u8>> {
    // Without a time in its head.
    let gzip = GzBuilder::new().write(Vec::new(), Compression::best());
    let mut tar = tar::Builder::new(gzip);
    for entry in entries {
        let mut header = tar::Header::new_gnu();
        header.set_size(entry.bytes.len() as u64);
        header.set_mode(entry.mode);
        header.set_mtime(MODIFIED);
        tar.append_data(&mut header, format!("{folder}/{}", entry.name), &entry.bytes[..])?;
    }
    Ok(tar.into_inner()?.finish()?)
}

fn zip(folder: &str, entries: &[&Entry]) -> Result<Vec<u8>> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for entry in entries {
        let options = SimpleFileOptions::default()
            .compression_level(Some(9))
            .last_modified_time(zip::DateTime::default())
            .unix_permissions(entry.mode);
        zip.start_file(format!("{folder}/{}", entry.name), options)?;
        zip.write_all(&entry.bytes)?;
    }
    Ok(zip.finish()?.into_inner())
}

/// Unpacks an archive into a folder.
pub(super) fn unpack(form: Form, archive: &Path, into: &Path) -> Result<()> {
    let file = fs::File::open(archive)?;
    match form {
        Form::TarGz => tar::Archive::new(GzDecoder::new(file)).unpack(into)?,
        Form::Zip => ZipArchive::new(file)?.extract(into)?,
    }
    Ok(())
}

/// The paths of all files in a folder and in those below it, relative to it and sorted.
pub(super) fn files(folder: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path.strip_prefix(folder)?.display().to_string());
            }
        }
    }
    found.sort();
    Ok(found)
}

/// The lines that `sha256sum --check` reads.
pub(super) fn sums(folder: &Path, names: &[String]) -> Result<String> {
    let mut lines = String::new();
    for name in names {
        let bytes = fs::read(folder.join(name)).with_context(|| name.clone())?;
        for byte in Sha256::digest(&bytes) {
            lines.push_str(&format!("{byte:02x}"));
        }
        lines.push_str(&format!("  {name}\n"));
    }
    Ok(lines)
}

pub(super) fn contains(bytes: &[u8], text: &[u8]) -> bool {
    bytes.windows(text.len()).any(|window| window == text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::process::Cmd;

    const BYTES: [u8; 3] = [1, 0, 255];

    fn entries() -> Vec<Entry> {
        let deep = Entry::file("docs/page.md", "words ".repeat(1000));
        vec![Entry::program("wharf", BYTES.to_vec()), deep, Entry::file("LICENSE", "all")]
    }

    #[test]
    fn the_order_of_the_files_does_not_count_and_their_contents_do() {
        for form in [Form::TarGz, Form::Zip] {
            let packed = pack(form, "a", &entries()).unwrap();
            let mut other = entries();
            other.reverse();
            assert_eq!(packed, pack(form, "a", &other).unwrap(), "{form:?}");
            other[0].bytes.push(b'x');
            assert_ne!(packed, pack(form, "a", &other).unwrap(), "{form:?}");
        }
    }

    /// With the tools that people have, not only with the crate that made it.
    #[test]
    fn what_was_packed_comes_out_again() {
        for form in [Form::TarGz, Form::Zip] {
            let folder = tempfile::tempdir().unwrap();
            let archive = folder.path().join("archive");
            fs::write(&archive, pack(form, "a", &entries()).unwrap()).unwrap();
            let [ours, theirs] = ["ours", "theirs"].map(|name| folder.path().join(name));
            unpack(form, &archive, &ours).unwrap();
            fs::create_dir(&theirs).unwrap();
            let mut unpacked = vec![ours];
            if form == Form::TarGz {
                Cmd::line(&theirs, "tar -xzf ../archive").run().unwrap();
                unpacked.push(theirs);
            }
            for into in unpacked {
                assert_eq!(files(&into).unwrap(), ["a/LICENSE", "a/docs/page.md", "a/wharf"]);
                assert_eq!(fs::read(into.join("a/wharf")).unwrap(), BYTES);
                let mode = |name: &str| into.join(name).metadata().unwrap().permissions().mode();
                assert_eq!(mode("a/wharf") & 0o100, 0o100, "{form:?}");
                assert_eq!(mode("a/LICENSE") & 0o111, 0, "{form:?}");
            }
        }
    }

    #[test]
    fn sums_are_what_sha256sum_checks() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a", "b"] {
            fs::write(folder.path().join(name), name).unwrap();
        }
        let sums = sums(folder.path(), &["a".to_owned(), "b".to_owned()]).unwrap();
        fs::write(folder.path().join("SUMS"), sums).unwrap();
        let check = Cmd::line(folder.path(), "sha256sum --check --strict SUMS");
        assert_eq!(check.output().unwrap(), "a: OK\nb: OK\n");
        fs::write(folder.path().join("b"), "changed").unwrap();
        check.output().unwrap_err();
    }
}

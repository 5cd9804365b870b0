//! What outlives the program, in a file.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use ibgateway_client::uuid4;

/// Which open is ours, and what of its watch was handled.
///
/// With the `request_id` a program that starts again gets the session of the run before, if that still
/// lives; with the token it learns what has happened meanwhile.
#[derive(Debug)]
pub struct Kept {
    path: PathBuf,
    /// Whether a run before has used the `request_id`.
    pub is_used: bool,
    pub request_id: String,
    pub token: String,
}

impl Kept {
    /// What the run before has left; new at the first.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or is something else.
    pub fn load(path: &Path) -> io::Result<Self> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Ok(Self {
                    path: path.to_owned(),
                    is_used: false,
                    request_id: uuid4(),
                    token: String::new(),
                });
            }
            Err(error) => return Err(error),
        };
        let [request_id, token] = text.lines().collect::<Vec<_>>()[..] else {
            let why = format!("{} does not have a request_id and a token", path.display());
            return Err(io::Error::new(ErrorKind::InvalidData, why));
        };
        Ok(Self {
            path: path.to_owned(),
            is_used: true,
            request_id: request_id.to_owned(),
            token: token.to_owned(),
        })
    }

    /// Replace the file as a whole: half a token would be none.
    ///
    /// # Errors
    ///
    /// It cannot be written; the file is as before.
    pub fn save(&self) -> io::Result<()> {
        // Beside the file of another session that is called alike.
        let mut fresh = self.path.clone().into_os_string();
        fresh.push(".new");
        let mut file = File::create(&fresh)?;
        writeln!(file, "{}\n{}", self.request_id, self.token)?;
        file.sync_all()?;
        fs::rename(fresh, &self.path)
    }

    /// The session is over: the next open is another one.
    ///
    /// # Errors
    ///
    /// The file cannot be removed.
    pub fn forget(&mut self) -> io::Result<()> {
        self.is_used = false;
        self.request_id = uuid4();
        self.token.clear();
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

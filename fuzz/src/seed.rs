//! Writes what fuzzing starts from into the folder that it is given: the table of bad frames and the
//! examples of good ones.

#[path = "../../tests/support/bad_frames.rs"]
mod bad_frames;

use std::{env, fs, io, path::Path};

fn main() -> io::Result<()> {
    let folder = env::args().nth(1).unwrap_or_else(|| "corpus/decode".to_owned());
    let folder = Path::new(&folder);
    fs::create_dir_all(folder)?;
    for frame in bad_frames::all() {
        // Long ones only slow the search down; the tests have them.
        if frame.text().is_some() && frame.bytes.len() <= 4096 {
            fs::write(folder.join(format!("bad-{}", frame.line)), frame.bytes)?;
        }
    }
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../schemas/examples/server");
    for example in fs::read_dir(examples)? {
        let example = example?;
        fs::copy(example.path(), folder.join(example.file_name()))?;
    }
    Ok(())
}

use super::Exit;
use super::args::Diff;
use super::terminal::Terminal;
use crate::models::checkpoint::Checkpoint;
use crate::models::compare::{compare, pair_up};
use crate::formats::error::{Error, Result};
use crate::formats::containers::Container;
use crate::formats::io::{Progress, parallel};
use crate::models::vae;
use crate::models::plan::translate;
use crate::report::Difference;

/// Compares two checkpoints: the answer is yes if they are equal.
pub(super) fn run(command: &Diff, terminal: &Terminal) -> Exit {
    match diff(command, terminal) {
        Ok(difference) => {
            terminal.result(|| difference.to_text(), &difference);
            if difference.equal { Exit::Yes } else { Exit::No }
        }
        Err(error) => {
            terminal.failure(&error);
            Exit::from(&error)
        }
    }
}

fn diff(command: &Diff, terminal: &Terminal) -> Result<Difference> {
    let open = |path| Ok::<_, Error>(translate::to_ldm(Checkpoint::open(path)?)?.0);
    let (a, b) = (open(&command.a)?, open(&command.b)?);
    a.refuse_unreadable()?;
    b.refuse_unreadable()?;
    let (left, right) = (&a.contents().state_dict, &b.contents().state_dict);
    let canonical = |key: &str| vae::canonical_key(key).into_owned();
    let mut pairs = pair_up(left, right, canonical);
    let is_folder = |checkpoint: &Checkpoint| checkpoint.contents().container == Container::Diffusers;
    let before = pairs.len();
    if is_folder(&a) != is_folder(&b) {
        // What one side cannot hold is no difference between the two.
        pairs.retain(|(key, left, right)| left.is_some() == right.is_some() || translate::has_place_in_folders(key));
    }
    let not_compared = before - pairs.len();
    terminal.begin("comparing", left.bytes());
    let compared = parallel::map(
        terminal.jobs(),
        &pairs,
        || (),
        |(), (key, left, right)| {
            let comparison = match (left, right) {
                (Some(left), Some(right)) => {
                    Some(compare(left, right, terminal).map_err(|error| error.in_tensor(key.as_str()))?)
                }
                _ => None,
            };
            Ok((key.clone(), *left, *right, comparison))
        },
    )?;
    let difference =
        Difference::new(command.a.to_string_lossy().into_owned(), command.b.to_string_lossy().into_owned(), compared);
    Ok(difference.with_not_compared(not_compared))
}

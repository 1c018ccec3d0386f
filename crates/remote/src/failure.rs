//! Errors of stores, without what they must not repeat: a store quotes addresses, key identifiers and session tokens.

use std::error::Error as Cause;

use trinart_ckpt_formats::error::{Error, Kind};

use crate::file::changed;

/// The longest code of an error that is shown. The longest of AWS has 43 letters.
const CODE: usize = 64;

/// What each code of an expired credential is called.
const EXPIRED: [&str; 3] = ["ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"];

/// The error of a store.
pub(crate) fn failure(error: object_store::Error) -> Error {
    let code = code(&error);
    let shown = code.as_ref().map_or_else(String::new, |code| format!(": {code}"));
    match (&error, code.as_deref()) {
        (_, Some("NoSuchBucket")) => Error::missing("the store has no such bucket"),
        (_, Some("NoSuchUpload")) => Error::missing("the store has no such upload"),
        (_, Some(code)) if EXPIRED.contains(&code) => Error::unsupported(format!(
            "the credentials for the store have expired: {code} (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, \
             AWS_SESSION_TOKEN)"
        )),
        (object_store::Error::NotFound { .. }, _) => Error::missing("the store has no such object"),
        (object_store::Error::Precondition { .. }, _) => changed("it has another tag"),
        (object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. }, _) => {
            Error::unsupported(format!(
                "the store refuses the credentials, or asks for some{shown} (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)"
            ))
        }
        (object_store::Error::AlreadyExists { .. }, _) => Error::conflict("already exists"),
        _ if is_status(&error, 412) => changed("it has another tag"),
        _ => Error::new(Kind::Io, format!("the store does not answer as expected: {}{shown}", cause(&error))),
    }
}

/// The innermost cause of an error: one line, without the body of an answer.
pub(crate) fn cause(error: &dyn Cause) -> String {
    let text = causes(error).last().unwrap_or_default();
    let line = text.lines().next().unwrap_or_default();
    // The body follows the status.
    let line = match line.split_once(STATUS) {
        Some((_, rest)) => format!("HTTP {}", rest.split(':').next().unwrap_or_default()),
        None => line.to_owned(),
    };
    line.split('<').next().unwrap_or_default().trim_end_matches([' ', ':']).to_owned()
}

/// What stands before the status in the text of an error.
const STATUS: &str = "non-2xx status code: ";

fn is_status(error: &dyn Cause, status: u16) -> bool {
    causes(error).any(|text| text.contains(&format!("{STATUS}{status}")))
}

/// The code in the answer of a store, such as `SlowDown`.
fn code(error: &dyn Cause) -> Option<String> {
    causes(error).find_map(|text| {
        let (_, rest) = text.split_once("<Code>")?;
        let (code, _) = rest.split_once("</Code>")?;
        let is_code = !code.is_empty() && code.len() <= CODE && code.bytes().all(|byte| byte.is_ascii_alphanumeric());
        is_code.then(|| code.to_owned())
    })
}

/// The texts of an error and its causes, the innermost last.
fn causes(error: &dyn Cause) -> impl Iterator<Item = String> {
    let mut next = Some(error);
    std::iter::from_fn(move || {
        let error = next?;
        next = error.source();
        Some(error.to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generic(text: &str) -> object_store::Error {
        object_store::Error::Generic { store: "S3", source: text.into() }
    }

    #[test]
    fn the_code_of_an_answer_is_shown_and_nothing_else_of_it() {
        let body = "<?xml?><Error><Code>ExpiredToken</Code><Token-0>SecretToken</Token-0></Error>";
        let found = failure(generic(&format!("Server returned non-2xx status code: 400 Bad Request: {body}")));
        assert!(found.message().contains("have expired: ExpiredToken") && !found.message().contains("Secret"));
        for body in ["<Error><Code>Odd</Code><Message>SecretToken</Message></Error>", "{\"token\": \"SecretToken\"}"] {
            let found = failure(generic(&format!("Server returned non-2xx status code: 400 Bad Request: {body}")));
            let message = found.message();
            assert!(message.contains("HTTP 400 Bad Request") && !message.contains("Secret"), "{message}");
            assert_eq!(message.contains("Odd"), body.contains("Odd"));
        }
        let found = failure(generic("Server returned error response: <Error><Code>SecretToken here</Code></Error>"));
        assert!(!found.message().contains("Secret"), "{}", found.message());
    }
}

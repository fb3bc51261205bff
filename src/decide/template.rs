//! The templates of `spec.target.data`: checked before any token is asked for, rendered with
//! bounded work and bounded output.

use std::{collections::BTreeMap, io, sync::LazyLock};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use minijinja::{Environment, UndefinedBehavior, value::Value};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::{failure::Failure, ownership::timestamp};
use crate::{
    api::{Reason, defaults::DEFAULT_DATA_TEMPLATE},
    servicenow::AccessToken,
};

/// All keys together; a Secret holds 1 MiB at most, and a token is about a hundred bytes.
const OUTPUT_LIMIT: usize = 64 * 1024;

/// Instructions of the template engine for one key.
const FUEL: u64 = 50_000;

/// The names that a template may use, as the documentation lists them.
const VARIABLES: [&str; 7] = [
    "token",
    "token_type",
    "scope",
    "expires_at",
    "expires_at_unix",
    "instance_url",
    "client_id",
];

/// The one filter.
const FILTER: &str = "b64encode";

/// What the variables stand for.
#[derive(Clone, Debug)]
pub struct Variables<'a> {
    /// The access token.
    pub token: &'a AccessToken,
    /// Its scope as the instance answered it; empty where it did not.
    pub scope: &'a str,
    /// Its expiry.
    pub expires_at: Timestamp,
    /// The instance's origin.
    pub instance_url: &'a str,
    /// The client's id.
    pub client_id: &'a str,
}

/// The rendered contents of the target.
#[derive(Clone, PartialEq)]
pub struct Rendered {
    /// Key → value.
    values: BTreeMap<String, Zeroizing<String>>,
    /// What of it is secret by itself.
    secrets: [Zeroizing<String>; 2],
    sha256: String,
}

impl Rendered {
    /// Keys with their values in base64, as a Secret's `data` takes them.
    pub fn encoded(&self) -> impl Iterator<Item = (&str, String)> {
        self.values
            .iter()
            .map(|(key, value)| (key.as_str(), STANDARD.encode(value.as_bytes())))
    }

    /// Every value in both of its spellings, and what in it is secret by itself, for blanking.
    pub(crate) fn spellings(&self) -> impl Iterator<Item = Zeroizing<String>> {
        let encoded = |value: &Zeroizing<String>| Zeroizing::new(STANDARD.encode(value.as_bytes()));
        let all = self.values.values().chain(&self.secrets);
        all.flat_map(move |value| [encoded(value), value.clone()])
    }

    /// The keys.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }

    /// Hex SHA-256 over keys and values, as `status.target.sha256` keeps it.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }
}

impl std::fmt::Debug for Rendered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.values.keys()).finish()
    }
}

/// Hex SHA-256 over keys and values in order, each preceded by its length, so that no two
/// different contents have the same input.
pub fn digest<'a>(entries: impl Iterator<Item = (&'a str, &'a [u8])>) -> String {
    let mut hash = Sha256::new();
    for (key, value) in entries {
        for part in [key.as_bytes(), value] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
    }
    crate::hex(&hash.finalize())
}

/// Checks the templates with stand-in values: what passes here fails later only by its size.
pub fn check(templates: &BTreeMap<String, String>) -> Result<(), Failure> {
    let token = AccessToken::stand_in();
    let variables = Variables {
        token: &token,
        scope: "useraccount",
        expires_at: Timestamp::UNIX_EPOCH,
        instance_url: "https://example.service-now.com",
        client_id: "00000000000000000000000000000000",
    };
    render(templates, &variables).map(|_| ())
}

/// The language, as templates have it.
static ENVIRONMENT: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(16);
    environment.set_keep_trailing_newline(true);
    // The values are credentials and config files, not HTML.
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.add_filter(FILTER, b64encode);
    // Nearly every resource has the default: it is compiled once, under its own text as its name.
    let compiled = environment.add_template(DEFAULT_DATA_TEMPLATE, DEFAULT_DATA_TEMPLATE);
    debug_assert!(compiled.is_ok(), "the default is a template");
    environment
});

/// Renders every key.
pub fn render(
    templates: &BTreeMap<String, String>,
    variables: &Variables<'_>,
) -> Result<Rendered, Failure> {
    let context = minijinja::context! {
        token => Value::from_safe_string(variables.token.expose().to_owned()),
        token_type => "Bearer",
        scope => variables.scope,
        expires_at => timestamp(variables.expires_at),
        expires_at_unix => variables.expires_at.as_second(),
        instance_url => variables.instance_url,
        client_id => variables.client_id,
    };
    let mut rendered = BTreeMap::new();
    let mut room = OUTPUT_LIMIT;
    for (key, source) in templates {
        scan(source).map_err(|problem| broken(key, &problem))?;
        let template = ENVIRONMENT
            .get_template(source)
            .or_else(|_| ENVIRONMENT.template_from_str(source))
            .map_err(|error| broken(key, &unparsed(&error)))?;
        let mut output = Bounded {
            bytes: Zeroizing::new(Vec::new()),
            room,
        };
        template
            .render_captured_to(&context, &mut output)
            .map_err(|error| unrendered(key, &error))?;
        room = output.room;
        let text = String::from_utf8_lossy(&output.bytes).into_owned();
        rendered.insert(key.clone(), Zeroizing::new(text));
    }
    let entries = rendered.iter();
    Ok(Rendered {
        sha256: digest(entries.map(|(key, value)| (key.as_str(), value.as_bytes()))),
        values: rendered,
        secrets: [variables.token.expose(), variables.client_id]
            .map(|secret| Zeroizing::new(secret.to_owned())),
    })
}

/// Base64 (RFC 4648, section 4), of no more than may be rendered at all: filters can be chained.
fn b64encode(value: String) -> Result<String, minijinja::Error> {
    if value.len() > OUTPUT_LIMIT {
        return Err(minijinja::ErrorKind::OutOfFuel.into());
    }
    Ok(STANDARD.encode(value))
}

/// A sink that refuses to grow past its room, so that nothing can fill the memory.
struct Bounded {
    bytes: Zeroizing<Vec<u8>>,
    room: usize,
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.room = self
            .room
            .checked_sub(bytes.len())
            .ok_or(io::ErrorKind::FileTooLarge)?;
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn too_large(key: &str) -> Failure {
    Failure::new(
        Reason::TemplateInvalid,
        format!(
            "The templates of spec.target.data render to more than 64 KiB (reached in key {key:?}). \
             Shorten them."
        ),
    )
}

fn broken(key: &str, problem: &str) -> Failure {
    Failure::new(
        Reason::TemplateInvalid,
        format!(
            "The template of key {key:?} in spec.target.data is broken {problem}. Correct it; nothing \
             is asked for before."
        ),
    )
}

/// Why a template cannot be rendered: the kind of the error and never its detail, which may hold
/// a value.
fn unrendered(key: &str, error: &minijinja::Error) -> Failure {
    use minijinja::ErrorKind::{OutOfFuel, WriteFailure};
    match error.kind() {
        OutOfFuel | WriteFailure => too_large(key),
        kind => broken(
            key,
            &format!("at line {}: {kind}", error.line().unwrap_or(1)),
        ),
    }
}

/// Why the engine cannot parse a template. It has seen no value yet.
fn unparsed(error: &minijinja::Error) -> String {
    let line = error.line().unwrap_or(1);
    let detail = error.detail().map(ToOwned::to_owned);
    format!(
        "at line {line}: {}",
        detail.unwrap_or_else(|| error.kind().to_string())
    )
}

/// Holds a template to the language of the contract: names of variables, the filter, texts, `~`
/// and parentheses. What is left of the engine's language then does work in proportion to its
/// length and cannot fail depending on a value, so that no error is a way to learn about one.
fn scan(source: &str) -> Result<(), String> {
    let at = |offset: usize| {
        let before = &source[..offset];
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
        format!("at line {line}, column {column}")
    };
    let mut rest = 0;
    while let Some(found) = source[rest..].find(['{', '}']) {
        let open = rest + found;
        match source.get(open..open + 2) {
            Some("{#") => {
                let end = source[open..].find("#}").ok_or_else(|| {
                    format!("{}: the comment that begins here does not end", at(open))
                })?;
                rest = open + end + 2;
            }
            Some("{%") => {
                return Err(format!(
                    "{}: there are no statements in these templates, only {{{{ … }}}}",
                    at(open)
                ));
            }
            Some("{{") => rest = scan_tag(source, open, &at)?,
            _ => rest = open + 1,
        }
    }
    Ok(())
}

/// Looks through one `{{ … }}`; returns where it ends.
fn scan_tag(source: &str, open: usize, at: &dyn Fn(usize) -> String) -> Result<usize, String> {
    let mut offset = open + 2;
    while let Some(c) = source[offset..].chars().next() {
        if source[offset..].starts_with("}}") {
            return Ok(offset + 2);
        }
        match c {
            '\'' | '"' => {
                let text = source[offset + 1..].find(c).ok_or_else(|| {
                    format!("{}: the text that begins here does not end", at(offset))
                })?;
                if source[offset + 1..offset + 1 + text].contains('\\') {
                    return Err(format!("{}: a text here may hold no backslash", at(offset)));
                }
                offset += text + 2;
            }
            c if c.is_ascii_alphabetic() || c == '_' => {
                let word = source[offset..]
                    .find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
                    .map_or(&source[offset..], |end| &source[offset..offset + end]);
                if !VARIABLES.contains(&word) && word != FILTER {
                    return Err(format!(
                        "{}: there is no variable {word:?}; the variables are {}, and the filter is \
                         {FILTER}",
                        at(offset),
                        VARIABLES.join(", ")
                    ));
                }
                offset += word.len();
            }
            c if c.is_whitespace() || "|~()-".contains(c) => offset += c.len_utf8(),
            c => return Err(format!("{}: {c:?} has no meaning here", at(offset))),
        }
    }
    Err(format!(
        "{}: the {{{{ that begins here does not end",
        at(open)
    ))
}

/// Finds the token in contents that an earlier run rendered: a template of literal text around one
/// plain `{{ token }}` can be read backwards. Used after a crash between two writes, to know which
/// token the Secret holds without asking for another.
pub fn recover_token(
    templates: &BTreeMap<String, String>,
    data: &BTreeMap<String, Vec<u8>>,
) -> Option<AccessToken> {
    templates.iter().find_map(|(key, template)| {
        let (before, rest) = template.split_once("{{")?;
        let (name, after) = rest.split_once("}}")?;
        let plain = name.trim() == "token"
            && ["{{", "{%", "{#"]
                .iter()
                .all(|tag| !before.contains(tag) && !after.contains(tag));
        let value = std::str::from_utf8(data.get(key)?).ok()?;
        let token = value.strip_prefix(before)?.strip_suffix(after)?;
        plain.then(|| AccessToken::parse(token).ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn templates(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
        entries
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    fn render_one(template: &str) -> Result<String, String> {
        let token = AccessToken::parse("abc-123_x").unwrap();
        let variables = Variables {
            token: &token,
            scope: "useraccount",
            expires_at: "2026-01-02T03:04:05Z".parse().unwrap(),
            instance_url: "https://dev1.service-now.com",
            client_id: "me",
        };
        let rendered = render(&templates(&[("k", template)]), &variables)
            .map_err(|failure| failure.message().to_owned())?;
        Ok(rendered.values["k"].to_string())
    }

    #[test]
    fn every_variable_and_the_filter_render() {
        let template = "{{ token }} {{ token_type }} {{ scope }} {{ expires_at }} \
                        {{ expires_at_unix }} {{ instance_url }} {{ client_id }} {{ 'a:b'|b64encode }}\n";
        assert_eq!(
            render_one(template).unwrap(),
            "abc-123_x Bearer useraccount 2026-01-02T03:04:05.000000Z 1767323045 \
             https://dev1.service-now.com me YTpi\n"
        );
    }

    #[test]
    fn an_unknown_variable_is_named_with_its_place() {
        assert_eq!(
            render_one("a\n  {{ tokn }}").unwrap_err(),
            "The template of key \"k\" in spec.target.data is broken at line 2, column 6: there is \
             no variable \"tokn\"; the variables are token, token_type, scope, expires_at, \
             expires_at_unix, instance_url, client_id, and the filter is b64encode. Correct it; \
             nothing is asked for before."
        );
    }

    #[test]
    fn what_the_language_does_not_have_is_named_with_its_place() {
        for (template, problem) in [
            (
                "ok\n{{ token",
                "line 2, column 1: the {{ that begins here does not end",
            ),
            (
                "{# a",
                "line 1, column 1: the comment that begins here does not end",
            ),
            (
                "{{ 'a }}",
                "line 1, column 4: the text that begins here does not end",
            ),
            (
                "a{% if token %}b{% endif %}",
                "line 1, column 2: there are no statements",
            ),
            ("{{ 'x' * 9 }}", "line 1, column 8: '*' has no meaning here"),
            (
                "{{ token[0] }}",
                "line 1, column 9: '[' has no meaning here",
            ),
            (
                "{{ token if token else scope }}",
                "column 10: there is no variable \"if\"",
            ),
            ("{{ token | }}", "line 1"),
            ("{{ b64encode }}", "line 1"),
        ] {
            let message = render_one(template).unwrap_err();
            assert!(message.contains(problem), "{template}: {message}");
        }
    }

    #[test]
    fn work_and_output_are_bounded() {
        let tower = format!("{{{{ token{} }}}}", "|b64encode".repeat(700));
        assert!(render_one(&tower).unwrap_err().contains("64 KiB"));
        let long = "{{ instance_url }}".repeat(4000);
        assert!(render_one(&long).unwrap_err().contains("64 KiB"));
    }

    #[test]
    fn texts_comments_and_joins_render_and_braces_of_json_stay() {
        let template = "{# note #}{\"t\": \"{{ (client_id ~ ':' ~ token) | b64encode }}\"}";
        assert_eq!(
            render_one(template).unwrap(),
            "{\"t\": \"bWU6YWJjLTEyM194\"}"
        );
    }

    #[test]
    fn html_is_not_escaped() {
        assert_eq!(render_one("<{{ '&<' }}>").unwrap(), "<&<>");
    }

    #[test]
    fn a_token_is_read_back_from_what_was_rendered() {
        let templates = templates(&[("a", "{{ expires_at }}"), ("h", "Bearer {{ token }}\n")]);
        let data = BTreeMap::from([
            ("a".to_owned(), b"x".to_vec()),
            ("h".to_owned(), b"Bearer abc-123_x\n".to_vec()),
        ]);
        let token = recover_token(&templates, &data).unwrap();
        assert_eq!(token.expose(), "abc-123_x");
    }
}

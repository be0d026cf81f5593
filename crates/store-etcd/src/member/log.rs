//! etcd's log lines as ours.

use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};

/// Longer lines are cut.
const LINE_BYTES_MAX: usize = 8 * 1024;

/// What etcd says when it cannot use its data: of its file (bbolt), of its log, of its snapshots.
const DAMAGE: [&str; 12] = [
    "failed to open database",
    "invalid database",
    "failed to recover v3 backend",
    "failed to read WAL",
    "failed to open WAL",
    "crc mismatch",
    "checksum error",
    "Was the raft log corrupted",
    "freepages: failed to get all reachable pages",
    "Page expected to be",
    "failed to load v3 snapshot",
    "database snapshot file",
];

/// Why it ended, as far as it said so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct LastWords {
    /// In its words.
    pub line: Option<String>,
    /// Whether it cannot read its data.
    pub damaged: bool,
}

impl LastWords {
    fn hear(&mut self, level: &str, text: &str) {
        let is_damage = DAMAGE.iter().any(|words| text.contains(words));
        let is_fatal = matches!(level, "fatal" | "panic" | "dpanic") || text.starts_with("panic:");
        // What came first is the reason; what follows comes of it.
        if !self.damaged && (is_damage || is_fatal) {
            self.line = Some(text.chars().take(LINE_KEPT).collect());
            self.damaged = is_damage;
        }
    }
}

/// Of a line that is told again so much, in characters.
const LINE_KEPT: usize = 200;

/// Passes lines on until the stream ends; yields what the last of it means.
pub(super) async fn forward(stream: impl AsyncRead + Unpin, member: String) -> LastWords {
    let mut last = LastWords::default();
    let mut reader = BufReader::with_capacity(LINE_BYTES_MAX, stream);
    loop {
        // Line by line, but never more than the buffer holds: a line without an end must not fill the memory.
        let (line, used) = match reader.fill_buf().await {
            Ok([]) | Err(_) => return last,
            Ok(bytes) => {
                let end = bytes.iter().position(|byte| *byte == b'\n');
                match end {
                    Some(end) => (String::from_utf8_lossy(&bytes[..end]).into_owned(), end + 1),
                    None => {
                        let rest = bytes.to_vec();
                        let used = rest.len();
                        (String::from_utf8_lossy(&rest).into_owned(), used)
                    }
                }
            }
        };
        reader.consume(used);
        if !line.trim().is_empty() {
            let (level, text) = parse(&line);
            last.hear(&level, &text);
            tell(&level, &text, &member);
        }
    }
}

/// What a line says, in short: its level, and the message with its other fields.
fn parse(line: &str) -> (String, String) {
    let plain = || ("info".to_owned(), line.trim().to_owned());
    let Ok(serde_json::Value::Object(mut fields)) = serde_json::from_str(line) else {
        return plain();
    };
    let mut take = |name: &str| match fields.remove(name) {
        Some(serde_json::Value::String(text)) => text,
        Some(other) => other.to_string(),
        None => String::new(),
    };
    let (level, mut text) = (take("level"), take("msg"));
    drop((take("ts"), take("caller"), take("stacktrace")));
    for (name, value) in &fields {
        text.push_str(&match value {
            serde_json::Value::String(value) => format!(" {name}={value}"),
            value => format!(" {name}={value}"),
        });
    }
    (level, text)
}

fn tell(level: &str, text: &str, member: &str) {
    match level {
        "fatal" | "panic" | "dpanic" | "error" => tracing::error!(target: "etcd", member, "{text}"),
        "warn" => tracing::warn!(target: "etcd", member, "{text}"),
        "debug" => tracing::trace!(target: "etcd", member, "{text}"),
        // What etcd calls worth knowing is a page for each start.
        _ => tracing::debug!(target: "etcd", member, "{text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_told_in_short() {
        let line = r#"{"level":"warn","ts":"2026-01-01","caller":"a.go:1","msg":"slow","took":"1s","n":3}"#;
        let (level, text) = parse(line);
        assert_eq!(level, "warn");
        assert!(text.starts_with("slow ") && text.contains(" took=1s") && text.contains(" n=3"));
        assert!(!text.contains("a.go"));
        assert_eq!(parse("panic: oh\n"), ("info".to_owned(), "panic: oh".to_owned()));
    }

    #[tokio::test]
    async fn the_reason_of_an_end_is_kept() {
        let said = async |text: &str| forward(text.as_bytes(), "m".to_owned()).await;
        let words = said(
            "{\"level\":\"info\",\"msg\":\"opening\"}\n{\"level\":\"panic\",\"msg\":\"failed to open database\",\
             \"error\":\"invalid database\"}\npanic: failed to open database\n",
        )
        .await;
        assert!(words.damaged);
        assert_eq!(words.line.as_deref(), Some("failed to open database error=invalid database"));
        let words = said("{\"level\":\"fatal\",\"msg\":\"listen tcp: address in use\"}\n").await;
        assert!(!words.damaged && words.line.is_some_and(|line| line.contains("in use")));
        assert_eq!(said("{\"level\":\"warn\",\"msg\":\"slow\"}\n").await, LastWords::default());
    }

    #[tokio::test]
    async fn any_stream_comes_to_its_end() {
        let endless = vec![b'x'; 5 * LINE_BYTES_MAX];
        forward(&endless[..], "m".to_owned()).await;
        forward(&b"\n\n{}\nlast"[..], "m".to_owned()).await;
    }
}

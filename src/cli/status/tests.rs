//! What the table looks like, and in which order its rows stand.

use jiff::Timestamp;

use super::{
    row::{Row, State, sort},
    stale,
    table::{Room, table},
};
use crate::api::FailureStatus;

const ROOM: Room = Room {
    width: Some(80),
    height: None,
    namespaces: true,
};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn state(status: &str, reason: &str) -> State {
    State {
        status: status.to_owned(),
        reason: reason.to_owned(),
    }
}

/// A token of half an hour, asked for at second 0.
fn well(name: &str) -> Row {
    Row {
        namespace: "team-a".to_owned(),
        name: name.to_owned(),
        instance: Some("dev12345".to_owned()),
        ready: state("True", "TokenValid"),
        synced: state("True", "TokenSynced"),
        verified: None,
        advice: None,
        secret: Some(name.to_owned()),
        issued_at: Some(at(0)),
        expires_at: Some(at(1800)),
        renewal_time: Some(at(1200)),
        failure: None,
        suspended: false,
    }
}

fn failing(name: &str) -> Row {
    let failure = serde_json::json!({
        "reason": "AccessDenied", "message": "", "count": 4,
        "lastTime": "1970-01-01T00:15:00.000000Z", "retryTime": "1970-01-01T00:23:00.000000Z",
    });
    Row {
        synced: state("False", "AccessDenied"),
        advice: Some(
            "The instance refused the client. 1) The system property is missing. 2) The OAuth \
             Application User is not set."
                .to_owned(),
        ),
        failure: Some(serde_json::from_value::<FailureStatus>(failure).unwrap()),
        ..well(name)
    }
}

fn new(name: &str) -> Row {
    Row {
        ready: state("Unknown", "Pending"),
        synced: state("Unknown", "Pending"),
        secret: None,
        issued_at: None,
        expires_at: None,
        renewal_time: None,
        ..well(name)
    }
}

fn plain(rows: &[Row], now: Timestamp, room: Room) -> String {
    anstream::adapter::strip_str(&table(rows, now, room)).to_string()
}

fn sorted(mut rows: Vec<Row>, now: Timestamp) -> Vec<Row> {
    sort(&mut rows, now);
    rows
}

#[test]
fn the_table_shows_what_needs_attention_first_with_its_advice_in_eighty_columns() {
    let now = at(1000);
    let long = "a-name-that-is-much-too-long-for-a-table";
    let mut expired = failing("expired");
    expired.expires_at = Some(at(900));
    let rows = vec![
        new("new"),
        well(long),
        well("itsm"),
        failing("crm"),
        expired,
    ];
    let shown = plain(&sorted(rows, now), now, ROOM);
    let expected = "\
5 resources: 1 not ready, 1 ready but failing, 1 pending, 2 well
NAME                     READY    SYNCED               LIFETIME LEFT     RENEWS
team-a/expired           Expired  AccessDenied         ░░░░░░░░ -1m40s   -
    Failed 4 times, tried again in 6m20s. The instance refused the client. 1)
    The system property is missing. 2) The OAuth Application User is not set.
team-a/crm               True     AccessDenied         ████░░░░ 13m20s   -
    Failed 4 times, tried again in 6m20s. The instance refused the client. 1)
    The system property is missing. 2) The OAuth Application User is not set.
team-a/new               Unknown  Pending                       -        -
team-a/a-na…for-a-table  True     TokenSynced          ████░░░░ 13m20s   3m20s
team-a/itsm              True     TokenSynced          ████░░░░ 13m20s   3m20s
";
    let unpadded: Vec<_> = shown.lines().map(str::trim_end).collect();
    assert_eq!(unpadded.join("\n") + "\n", expected);
    assert!(shown.lines().all(|line| line.chars().count() <= 80));
}

#[test]
fn what_does_not_fit_on_the_screen_is_counted() {
    let rows: Vec<_> = (0..500).map(|n| well(&format!("r{n:03}"))).collect();
    let room = Room {
        height: Some(24),
        ..ROOM
    };
    let shown = plain(&rows, at(0), room);
    let lines: Vec<_> = shown.lines().collect();
    assert_eq!(lines.len(), 24);
    assert_eq!(lines[0], "500 resources: 500 well");
    assert_eq!(lines[23], "… and 479 more");
}

#[test]
fn advice_never_fills_the_screen() {
    let mut row = failing("crm");
    row.advice = Some("Do something about it. ".repeat(100));
    let room = Room {
        height: Some(24),
        ..ROOM
    };
    let shown = plain(&[row, well("itsm")], at(0), room);
    assert_eq!(shown.lines().count(), 2 + 1 + 3 + 1);
}

#[test]
fn a_status_cannot_send_control_characters_to_the_terminal() {
    let mut row = failing("crm");
    row.advice = Some("red \x1b[31m and\nmore".to_owned());
    assert!(!plain(&[row], at(0), ROOM).contains("\x1b"));
}

#[test]
fn a_resource_that_nobody_renews_says_so_before_its_token_is_over_and_after() {
    let now = at(1500);
    let mut over = well("over");
    (over.renewal_time, over.expires_at) = (Some(at(1000)), Some(at(1450)));
    let mut kept = well("kept");
    kept.renewal_time = kept.expires_at;
    let wide = Room {
        width: Some(120),
        ..ROOM
    };
    let shown = plain(&sorted(vec![kept, well("late"), over], now), now, wide);
    let expected = "\
3 resources: 1 not ready, 1 overdue, 1 well
NAME          READY    SYNCED               LIFETIME LEFT     RENEWS
team-a/over   Expired  TokenSynced          ░░░░░░░░ -50s     now
    Nobody renews it: does the operator run, and does it watch this namespace? See its pods and their log.
team-a/late   True     TokenSynced          ██░░░░░░ 5m00s    now
    Nobody renews it: does the operator run, and does it watch this namespace? See its pods and their log.
team-a/kept   True     TokenSynced          ██░░░░░░ 5m00s    5m00s
";
    let unpadded: Vec<_> = shown.lines().map(str::trim_end).collect();
    assert_eq!(unpadded.join("\n") + "\n", expected);
}

#[test]
fn a_table_that_nobody_brings_up_to_date_says_how_old_it_is_in_one_line_of_the_screen() {
    let said = anstream::adapter::strip_str(&stale(at(0), at(750))).to_string();
    let expected = "The Kubernetes API cannot be reached: this is as it was 12m30s ago.\n";
    assert_eq!(said, expected);
    assert!(said.chars().count() <= 80);
}

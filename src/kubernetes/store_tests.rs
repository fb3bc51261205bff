//! What the store keeps, what it believes, and whom it wakes.

use std::sync::Arc;

use jiff::Timestamp;

use super::{
    objects::Relist,
    store::{Store, Write},
};
use crate::{
    api::{
        CreationPolicy, ServiceNowCredentialSpec, ServiceNowCredentialStatus, Target, TargetStatus,
    },
    decide::{
        Credential, Name, Seen,
        observed::{Kind, Rival, Version},
    },
};

fn name(name: &str) -> Name {
    Name::new("ns", name)
}

fn version(uid: &str, resource_version: u32) -> Version {
    Version {
        uid: uid.to_owned(),
        resource_version: resource_version.to_string(),
    }
}

fn present(uid: &str, resource_version: u32) -> Seen {
    Seen::Present(version(uid, resource_version))
}

/// A resource with the client Secret "client" and this target.
fn credential(who: &str, target: &str, resource_version: u32) -> Credential {
    let mut spec = ServiceNowCredentialSpec {
        instance: "dev1".to_owned(),
        target: Some(Target {
            name: Some(target.to_owned()),
            ..Target::default()
        }),
        ..ServiceNowCredentialSpec::default()
    };
    spec.client.secret_ref.name = "client".to_owned();
    Credential {
        name: name(who),
        uid: format!("{who}-uid"),
        generation: 1,
        resource_version: resource_version.to_string(),
        created_at: Timestamp::UNIX_EPOCH,
        deleting: false,
        finalizer: false,
        renew_request: None,
        spec: Ok(spec.into()),
        status: Default::default(),
    }
}

fn wrote(target: &str, uid: &str) -> Arc<ServiceNowCredentialStatus> {
    Arc::new(ServiceNowCredentialStatus {
        observed_generation: Some(1),
        target: Some(TargetStatus {
            name: target.to_owned(),
            uid: uid.to_owned(),
            resource_version: "1".to_owned(),
            creation_policy: CreationPolicy::Owner,
            sha256: String::new(),
        }),
        ..ServiceNowCredentialStatus::default()
    })
}

fn store(credentials: impl IntoIterator<Item = Credential>) -> Store {
    let mut store = Store::default();
    for credential in credentials {
        store.apply(credential);
    }
    store
}

fn written(
    store: &mut Store,
    who: &str,
    rv: u32,
    status: Arc<ServiceNowCredentialStatus>,
) -> Vec<Name> {
    store.status_written(&name(who), &format!("{who}-uid"), rv.to_string(), status)
}

#[test]
fn of_other_peoples_secrets_nothing_is_kept() {
    let mut store = store([credential("a", "token", 1)]);
    assert_eq!(store.secrets.applied(&name("theirs"), version("u", 5)), []);
    assert_eq!(store.secrets.seen(&name("theirs")), &Seen::Unknown);
    assert_eq!(store.secrets.deleted(&name("theirs"), "6"), []);
    let elsewhere = Name::new("elsewhere", "token");
    assert_eq!(store.secrets.applied(&elsewhere, version("u", 5)), []);
    assert_eq!(
        store.secrets.applied(&name("token"), version("u", 5)),
        [name("a")]
    );
    assert_eq!(store.secrets.seen(&name("token")), &present("u", 5));
    store.remove(&name("a"));
    assert_eq!(
        store.secrets.seen(&name("token")),
        &Seen::Unknown,
        "nobody names it any more"
    );
}

#[test]
fn old_news_of_a_secret_does_not_win_over_newer() {
    let mut store = store([credential("a", "token", 1)]);
    let token = name("token");
    store.secrets.applied(&token, version("u", 100));
    assert_eq!(
        store.secrets.applied(&token, version("u", 99)),
        [],
        "as a number, not as text"
    );
    assert_eq!(store.secrets.applied(&token, version("u", 100)), []);
    assert_eq!(store.secrets.deleted(&token, "99"), []);
    assert_eq!(store.secrets.seen(&token), &present("u", 100));
    assert_eq!(store.secrets.deleted(&token, "101"), [name("a")]);
    assert_eq!(store.secrets.deleted(&token, "101"), []);
    assert_eq!(store.secrets.seen(&token), &Seen::Absent);
    assert_eq!(
        store.secrets.applied(&token, version("v", 102)),
        [name("a")]
    );
}

#[test]
fn a_read_that_is_ahead_of_the_watch_is_news_to_all_and_one_behind_is_none() {
    let mut store = store([credential("a", "a", 1), credential("b", "b", 1)]);
    let client = name("client");
    assert_eq!(store.secrets.read(&client, None), []);
    let unknown = &Seen::Unknown;
    assert_eq!(store.secrets.seen(&client), unknown, "no watch would tell");
    let relist = store.begin_relist(None);
    store.secrets.end_relist(&relist);
    assert_eq!(store.secrets.seen(&client), &Seen::Absent);
    store.apply(credential("d", "later", 7));
    let later = store.secrets.read(&name("later"), None);
    assert_eq!(later, [name("d")], "named since that list");
    let woken = store.secrets.read(&client, Some(version("u", 5)));
    assert_eq!(woken, ["a", "b", "d"].map(name));
    assert_eq!(store.secrets.read(&client, Some(version("u", 4))), []);
    assert_eq!(
        store.secrets.read(&client, None),
        [],
        "the watch will say so"
    );
    assert_eq!(store.secrets.seen(&client), &present("u", 5));
    assert_eq!(store.secrets.applied(&client, version("u", 5)), []);
}

#[test]
fn a_read_that_comes_after_the_news_of_the_deletion_brings_nothing_back() {
    let mut store = store([credential("a", "a", 1)]);
    let client = name("client");
    store.secrets.applied(&client, version("u", 5));
    assert_eq!(store.secrets.deleted(&client, "7"), [name("a")]);
    assert_eq!(store.secrets.read(&client, Some(version("u", 5))), []);
    assert_eq!(store.secrets.seen(&client), &Seen::Absent);
    let created = store.secrets.read(&client, Some(version("v", 8)));
    assert_eq!(created, [name("a")]);
    assert_eq!(store.secrets.seen(&client), &present("v", 8));
}

#[test]
fn a_read_that_comes_after_a_list_without_the_object_brings_nothing_back() {
    let mut store = store([credential("a", "a", 1)]);
    let client = name("client");
    store.secrets.applied(&client, version("u", 5));
    let relist = store.begin_relist(None);
    assert_eq!(store.secrets.end_relist(&relist), [name("a")]);
    assert_eq!(store.secrets.read(&client, Some(version("u", 5))), []);
    assert_eq!(store.secrets.seen(&client), &Seen::Absent);
}

#[test]
fn a_relist_removes_what_is_gone_and_not_what_was_first_named_meanwhile() {
    let mut store = store([credential("a", "a-token", 1)]);
    let seen = |store: &Store, secret| store.secrets.seen(&name(secret)).clone();
    store.secrets.applied(&name("a-token"), version("u", 5));
    store.secrets.applied(&name("client"), version("c", 6));
    let mut relist = store.begin_relist(None);
    store
        .secrets
        .listed(&mut relist, &name("client"), version("c", 6));
    store.apply(credential("b", "b-token", 2));
    assert_eq!(store.secrets.end_relist(&relist), [name("a")]);
    assert_eq!(seen(&store, "client"), present("c", 6));
    assert_eq!(seen(&store, "a-token"), Seen::Absent);
    assert_eq!(
        seen(&store, "b-token"),
        Seen::Unknown,
        "the list may have passed it"
    );
    let relist = store.begin_relist(None);
    let woken = store.secrets.end_relist(&relist);
    assert!(woken.contains(&name("b")), "{woken:?}");
    assert_eq!(seen(&store, "b-token"), Seen::Absent);
}

#[test]
fn a_relist_of_one_namespace_says_nothing_of_another() {
    let elsewhere = Credential {
        name: Name::new("elsewhere", "a"),
        ..credential("a", "token", 1)
    };
    let mut store = store([elsewhere]);
    let token = Name::new("elsewhere", "token");
    store.secrets.applied(&token, version("u", 5));
    let relist = store.begin_relist(Some("ns"));
    assert_eq!(store.secrets.end_relist(&relist), []);
    assert_eq!(store.end_relist(&relist), []);
    assert_eq!(store.secrets.seen(&token), &present("u", 5));
    assert!(store.get(&Name::new("elsewhere", "a")).is_some());
}

#[test]
fn a_relist_of_resources_removes_those_that_are_gone() {
    let mut store = store([credential("a", "a", 1), credential("b", "b", 2)]);
    let mut relist: Relist = store.begin_relist(None);
    assert_eq!(
        store.listed(&mut relist, credential("a", "a", 1)),
        [],
        "it is known"
    );
    let woken = store.end_relist(&relist);
    assert_eq!(
        woken,
        ["b", "a"].map(name),
        "and a shares its client Secret"
    );
    assert!(store.get(&name("b")).is_none());
}

#[test]
fn a_change_wakes_its_resource_and_an_echo_of_our_own_status_nobody() {
    let mut store = store([credential("a", "token", 1)]);
    assert_eq!(written(&mut store, "a", 2, wrote("token", "u")), []);
    let echo = Credential {
        status: wrote("token", "u"),
        ..credential("a", "token", 2)
    };
    assert_eq!(store.apply(echo.clone()), []);
    let labelled = Credential {
        resource_version: "3".to_owned(),
        ..echo.clone()
    };
    assert_eq!(store.apply(labelled), [], "a label is not our business");
    type Change = fn(&mut Credential);
    let changes: [Change; 4] = [
        |c| c.generation += 1,
        |c| c.deleting = true,
        |c| c.renew_request = Some("now".to_owned()),
        |c| c.status = Arc::default(),
    ];
    for change in changes {
        let mut store = self::store([echo.clone()]);
        let mut changed = Credential {
            resource_version: "3".to_owned(),
            ..echo.clone()
        };
        change(&mut changed);
        assert_eq!(store.apply(changed), [name("a")]);
    }
}

#[test]
fn a_change_that_our_status_write_has_overtaken_is_not_lost() {
    let mut store = store([credential("a", "token", 10)]);
    // Version 11 is somebody's new spec, version 12 our status on top of it; the answer to our
    // write is here before the watch.
    assert_eq!(written(&mut store, "a", 12, wrote("token", "u")), []);
    let theirs = Credential {
        generation: 2,
        ..credential("a", "token", 11)
    };
    assert_eq!(store.apply(theirs), [name("a")]);
    let kept = store.get(&name("a")).unwrap();
    assert_eq!((kept.generation, &kept.status), (2, &wrote("token", "u")));
    // Likewise where the watch brings both changes as one.
    let mut store = self::store([credential("a", "token", 10)]);
    written(&mut store, "a", 12, wrote("token", "u"));
    let both = Credential {
        renew_request: Some("now".to_owned()),
        status: wrote("token", "u"),
        ..credential("a", "token", 12)
    };
    assert_eq!(store.apply(both), [name("a")]);
}

#[test]
fn a_status_that_the_watch_brings_before_its_answer_wakes_nobody_and_anothers_does() {
    let begun = || {
        let mut store = store([credential("a", "token", 10)]);
        store.begin_write(&name("a"), Write::Status);
        store
    };
    let echo = Credential {
        status: wrote("token", "u"),
        ..credential("a", "token", 12)
    };
    // The echo comes first; then its answer, or no answer ever.
    let mut store = begun();
    assert_eq!(store.apply(echo.clone()), []);
    assert_eq!(written(&mut store, "a", 12, wrote("token", "u")), []);
    assert!(!store.end_write(&name("a")));
    let mut store = begun();
    assert_eq!(store.apply(echo.clone()), []);
    assert!(store.end_write(&name("a")), "nobody knows whose it was");
    // It was somebody else's, and ours came before or after it.
    let theirs = |at| Credential {
        status: wrote("token", "theirs"),
        ..credential("a", "token", at)
    };
    for at in [11, 13] {
        let mut store = begun();
        assert_eq!(store.apply(theirs(at)), []);
        let woken = written(&mut store, "a", 12, wrote("token", "u"));
        assert_eq!(woken, [name("a")], "at {at}");
    }
    // A change of anything else wakes at once, whatever comes with it.
    let mut store = begun();
    let changed = Credential {
        generation: 2,
        ..echo
    };
    assert_eq!(store.apply(changed), [name("a")]);
}

#[test]
fn a_secret_that_the_watch_brings_before_the_answer_of_its_write_wakes_only_others() {
    let token = name("token");
    let tell = |store: &mut Store, at| store.object_applied(Kind::Secret, &token, version("u", at));
    let begun = || {
        let mut store = store([credential("a", "token", 1), credential("b", "token", 2)]);
        store.begin_write(&name("a"), Write::Target);
        assert_eq!(tell(&mut store, 5), [name("b")]);
        store
    };
    let done = |store: &mut Store, at| {
        let version = version("u", at);
        store.target_written(&name("a"), &token, Some(&version))
    };
    let mut store = begun();
    assert_eq!(done(&mut store, 5), [], "it was ours");
    assert_eq!(tell(&mut store, 6), ["a", "b"].map(name), "and that is not");
    let mut store = begun();
    assert_eq!(done(&mut store, 6), [name("b")], "it came before ours");
    let mut store = begun();
    assert_eq!(done(&mut store, 4), [name("a")], "it came after ours");
    let mut store = begun();
    let unheard = store.target_written(&name("a"), &token, None);
    assert_eq!(unheard, [name("a")], "nobody knows whose it was");
    // A client Secret of that name is nobody's target.
    let mut store = begun();
    let client = store.object_applied(Kind::Secret, &name("client"), version("c", 7));
    assert_eq!(client, ["a", "b"].map(name));
}

#[test]
fn a_status_that_somebody_else_changed_after_ours_is_theirs() {
    let mut store = store([credential("a", "token", 10)]);
    written(&mut store, "a", 12, wrote("token", "u"));
    assert_eq!(store.apply(credential("a", "token", 13)), [name("a")]);
    let status = &store.get(&name("a")).unwrap().status;
    assert_eq!(**status, ServiceNowCredentialStatus::default());
}

#[test]
fn old_news_of_a_resource_does_not_win_but_another_of_its_name_does() {
    let mut store = store([credential("a", "token", 100)]);
    assert_eq!(store.apply(credential("a", "old", 99)), []);
    assert_eq!(written(&mut store, "a", 99, wrote("old", "u")), []);
    assert_eq!(store.get(&name("a")).unwrap().status, Arc::default());
    let recreated = Credential {
        uid: "another-uid".to_owned(),
        ..credential("a", "token", 101)
    };
    assert_eq!(store.apply(recreated), [name("a")]);
    assert_eq!(written(&mut store, "a", 102, wrote("token", "u")), []);
    let status = &store.get(&name("a")).unwrap().status;
    assert_eq!(*status, Arc::default(), "that was the earlier one's");
}

fn older(who: &str) -> Option<Rival> {
    Some(Rival {
        name: who.to_owned(),
        owns: false,
    })
}

fn owner(who: &str) -> Option<Rival> {
    Some(Rival {
        name: who.to_owned(),
        owns: true,
    })
}

fn created(second: i64, credential: Credential) -> Credential {
    Credential {
        created_at: Timestamp::from_second(second).unwrap(),
        ..credential
    }
}

#[test]
fn the_older_of_two_resources_comes_first_and_the_owner_before_both() {
    let old = created(1, credential("old", "token", 1));
    let young = created(2, credential("young", "token", 2));
    let mut store = store([old.clone(), young.clone()]);
    assert_eq!(store.rival(&young), older("old"));
    assert_eq!(store.rival(&old), None);
    // The younger wrote the Secret that exists.
    store.secrets.applied(&name("token"), version("u", 5));
    written(&mut store, "young", 6, wrote("token", "u"));
    let of = |store: &Store, who| store.rival(store.get(&name(who)).unwrap());
    assert_eq!(of(&store, "young"), None);
    assert_eq!(of(&store, "old"), owner("young"));
    // After a restart the resources may be known before the Secret.
    let known = ["old", "young"].map(|who| Credential::clone(store.get(&name(who)).unwrap()));
    let restarted = self::store(known);
    assert_eq!(of(&restarted, "young"), None);
    assert_eq!(of(&restarted, "old"), owner("young"));
    // Whoever is younger than both is told of the owner.
    let youngest = created(3, credential("youngest", "token", 9));
    assert_eq!(store.rival(&youngest), owner("young"));
    // It is deleted: age decides again, and both are woken to find out.
    let woken = store.secrets.deleted(&name("token"), "7");
    assert_eq!(woken, ["old", "young"].map(name));
    assert_eq!(of(&store, "young"), older("old"));
    // The same age: the uid decides, whoever asks.
    let twin = created(1, credential("twin", "token", 3));
    let store = self::store([old.clone(), twin.clone()]);
    assert_eq!(
        (store.rival(&old), store.rival(&twin)),
        (None, older("old"))
    );
}

#[test]
fn rivals_wake_when_a_target_is_freed() {
    let rivals = || {
        store([
            created(1, credential("old", "token", 1)),
            created(2, credential("young", "token", 2)),
        ])
    };
    let wakes = |woken: Vec<Name>| assert!(woken.contains(&name("young")), "{woken:?}");
    wakes(rivals().remove(&name("old")));
    // It takes another name.
    wakes(rivals().apply(created(1, credential("old", "other", 3))));
    // Its spec is broken.
    wakes(rivals().apply(Credential {
        spec: Err("it does not parse".to_owned()),
        ..credential("old", "token", 3)
    }));
    // It takes another name, and its status still remembers this one.
    let mut store = rivals();
    written(&mut store, "old", 3, wrote("token", "gone"));
    let renamed = Credential {
        status: wrote("token", "gone"),
        ..created(1, credential("old", "other", 4))
    };
    wakes(store.apply(renamed.clone()));
    assert_eq!(store.rival(store.get(&name("young")).unwrap()), None);
    // And when its status forgets it.
    wakes(written(&mut store, "old", 5, wrote("other", "u")));
}

#[test]
fn a_rival_that_has_its_place_no_more_wakes_the_others_under_the_same_name_too() {
    let (old, young) = (
        created(1, credential("old", "token", 1)),
        created(2, credential("young", "token", 2)),
    );
    let by_name = |store: &Store| store.rival(store.get(&name("young")).unwrap());
    let mut store = store([old.clone(), young]);
    assert_eq!(by_name(&store), older("old"));
    // Another resource of its name, of which the watch told in one.
    let replaced = Credential {
        uid: "another-uid".to_owned(),
        ..created(3, credential("old", "token", 3))
    };
    assert_eq!(store.apply(replaced.clone()), ["old", "young"].map(name));
    assert_eq!(by_name(&store), None);
    // It creates no Secret any more.
    let mut store = self::store([created(2, credential("young", "token", 2)), old.clone()]);
    assert_eq!(
        store.apply(merging(Credential {
            generation: 2,
            resource_version: "4".to_owned(),
            ..old.clone()
        })),
        ["old", "young"].map(name)
    );
    assert_eq!(by_name(&store), None);
}

/// The same resource with creationPolicy Merge.
fn merging(credential: Credential) -> Credential {
    let mut spec = ServiceNowCredentialSpec::clone(credential.spec.as_ref().unwrap());
    spec.target.get_or_insert_default().creation_policy = Some(CreationPolicy::Merge);
    Credential {
        spec: Ok(spec.into()),
        ..credential
    }
}

#[test]
fn those_who_merge_have_no_rivals_and_are_none() {
    let merger = created(1, merging(credential("merger", "token", 1)));
    let young = created(2, credential("young", "token", 2));
    let mut store = store([merger.clone(), young.clone()]);
    assert_eq!((store.rival(&merger), store.rival(&young)), (None, None));
    // Its record of somebody's Secret does not make that its own.
    store.secrets.applied(&name("token"), version("u", 5));
    let mut merged = wrote("token", "u");
    let target = Arc::make_mut(&mut merged).target.as_mut().unwrap();
    target.creation_policy = CreationPolicy::Merge;
    written(&mut store, "merger", 6, merged);
    let of = |store: &Store, who| store.rival(store.get(&name(who)).unwrap());
    assert_eq!(of(&store, "young"), None);
    written(&mut store, "young", 7, wrote("token", "u"));
    assert_eq!((of(&store, "young"), of(&store, "merger")), (None, None));
}

#[test]
fn a_renamed_target_stays_known_under_its_old_name_until_the_status_forgets_it() {
    let mut store = store([credential("a", "old", 1)]);
    store.secrets.applied(&name("old"), version("u", 2));
    written(&mut store, "a", 3, wrote("old", "u"));
    store.apply(Credential {
        generation: 2,
        status: wrote("old", "u"),
        ..credential("a", "new", 4)
    });
    assert_eq!(store.secrets.seen(&name("old")), &present("u", 2));
    assert_eq!(
        store.secrets.applied(&name("old"), version("u", 5)),
        [name("a")]
    );
    assert_eq!(store.secrets.seen(&name("new")), &Seen::Unknown);
    store.secrets.applied(&name("new"), version("n", 6));
    written(&mut store, "a", 7, wrote("new", "n"));
    assert_eq!(
        store.secrets.seen(&name("old")),
        &Seen::Unknown,
        "nothing is kept of it"
    );
    assert_eq!(store.secrets.seen(&name("new")), &present("n", 6));
}

#[test]
fn a_client_secret_is_known_to_all_who_name_it() {
    let mut store = store([credential("a", "a", 1), credential("b", "b", 2)]);
    let woken = store.secrets.applied(&name("client"), version("c", 3));
    assert_eq!(woken, ["a", "b"].map(name));
    store.remove(&name("a"));
    assert_eq!(store.secrets.seen(&name("client")), &present("c", 3));
    assert_eq!(store.secrets.deleted(&name("client"), "4"), [name("b")]);
}

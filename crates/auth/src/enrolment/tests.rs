use signing::{SecretKey, Signer as _};

use super::*;

fn key(byte: u8) -> PublicKey {
    SecretKey::from_seed(&[byte; 32]).unwrap().public_key()
}

fn alice() -> Subject {
    Subject::new("alice").unwrap()
}

fn row(subject: &Subject, key: &PublicKey, withdrawn_at: Option<u64>) -> ClientKeyRow {
    ClientKeyRow {
        subject: subject.clone(),
        thumbprint: key.thumbprint(),
        public_key: *key.as_bytes(),
        label: None,
        enrolled_at: 1,
        withdrawn_at,
    }
}

#[test]
fn a_key_signs_for_a_subject_that_it_was_enrolled_for() {
    let subject = alice();
    let (one, two, gone, foreign) = (key(1), key(2), key(3), key(4));
    let none = SubjectKeys::new(&subject, vec![]);
    let single = SubjectKeys::new(&subject, vec![row(&subject, &one, None), row(&subject, &gone, Some(5))]);
    let several = SubjectKeys::new(&subject, vec![row(&subject, &one, None), row(&subject, &two, None)]);
    let check = |keys: &SubjectKeys, named: Option<String>, bound: Option<&PublicKey>, expected| {
        let bound = bound.map(PublicKey::thumbprint);
        assert_eq!(keys.resolve(named.as_deref(), bound.as_deref()), expected, "{named:?} {bound:?}");
    };
    check(&none, None, None, Err(KeyRefusal::Unknown));
    check(&none, Some(one.to_hex()), None, Err(KeyRefusal::Unknown));
    check(&single, Some(foreign.to_hex()), None, Err(KeyRefusal::Unknown));
    check(&single, Some(foreign.thumbprint()), None, Err(KeyRefusal::Unknown));
    check(&single, Some(gone.to_hex()), None, Err(KeyRefusal::Withdrawn));
    check(&single, Some(gone.thumbprint()), Some(&gone), Err(KeyRefusal::Withdrawn));
    check(&single, Some(gone.to_hex()), Some(&gone), Err(KeyRefusal::Withdrawn));
    check(&several, None, None, Err(KeyRefusal::Ambiguous));
    check(&single, Some(one.to_hex()), Some(&foreign), Err(KeyRefusal::NotBound));
    check(&single, None, Some(&foreign), Err(KeyRefusal::Unknown));
    for malformed in ["", "zz", &one.to_hex()[1..], &format!("{}00", one.to_hex()), &"g".repeat(64)] {
        check(&single, Some(malformed.to_owned()), None, Err(KeyRefusal::Malformed));
    }
    check(&single, Some("0".repeat(64)), None, Err(KeyRefusal::Weak));
    check(&single, Some(format!("01{}", "0".repeat(62))), None, Err(KeyRefusal::Weak));

    check(&single, None, None, Ok(one));
    check(&single, Some(one.to_hex()), None, Ok(one));
    check(&several, Some(two.thumbprint()), None, Ok(two));
    check(&several, None, Some(&two), Ok(two));
    check(&none, Some(foreign.to_hex()), Some(&foreign), Ok(foreign));
}

#[test]
fn a_subject_that_is_a_key_needs_no_enrolment_and_can_lose_its_key() {
    let (own, other) = (key(1), key(2));
    let subject = subject_of(&own);
    let keys = SubjectKeys::new(&subject, vec![]);
    assert_eq!(keys.check(&other), Err(KeyRefusal::Unknown));
    assert_eq!(keys.check(&own), Ok(()));
    assert_eq!(keys.resolve(Some(&own.to_hex()), None), Ok(own));
    let withdrawn = SubjectKeys::new(&subject, vec![row(&subject, &own, Some(5))]);
    assert_eq!(withdrawn.check(&own), Err(KeyRefusal::Withdrawn));
}

#[tokio::test]
async fn a_withdrawal_beside_the_process_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("node.sqlite");
    let node = ClientKeys::new(Store::open(&path).unwrap()).watched();
    let beside = ClientKeys::new(Store::open(&path).unwrap());
    let resolved = async || node.of(&alice()).await.unwrap().resolve(None, None);
    let becomes = async |expected: Result<PublicKey, KeyRefusal>| {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        while resolved().await != expected {
            assert!(tokio::time::Instant::now() < deadline, "the change was not noticed");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert_eq!(resolved().await, Err(KeyRefusal::Unknown));
    beside.enrol(&alice(), &key(1), Some("laptop".into()), false).await.unwrap();
    becomes(Ok(key(1))).await;
    beside.withdraw(&alice(), &key(1).thumbprint()).await.unwrap();
    becomes(Err(KeyRefusal::Unknown)).await;
    assert!(matches!(node.enrol(&alice(), &key(1), None, false).await, Err(EnrolmentError::Withdrawn)));
    assert!(matches!(node.enrol(&alice(), &key(2), Some("\n".into()), false).await, Err(EnrolmentError::Label)));
    node.enrol(&alice(), &key(1), None, true).await.unwrap();
    assert_eq!(resolved().await, Ok(key(1)), "what this process changes it sees at once");
}

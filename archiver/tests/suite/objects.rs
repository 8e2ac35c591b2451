//! Objects: created once, read in ranges, listed in order, deleted.

use backscroll_archiver::object_store::transfer::{get_stream, list};
use backscroll_archiver::object_store::{ErrorKind, KeyPrefix, PAGE_OBJECTS};
use backscroll_shard::model::Timestamp;
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use crate::bed::{Bed, content, key};

crate::on_every_backend![
    what_is_put_is_got,
    an_object_never_changes,
    an_empty_object,
    ranges_are_exact_or_an_error,
    what_is_not_there,
    a_listing_is_in_order_and_complete,
];

async fn read(bed: &Bed, name: &str) -> Vec<u8> {
    let target = key(name);
    let (meta, stream) = get_stream(&*bed.store, &target).await.unwrap();
    let pieces: Vec<Bytes> = stream.try_collect().await.unwrap();
    let whole = pieces.concat();
    assert_eq!(meta.size, whole.len() as u64);
    whole
}

async fn keys(bed: &Bed, prefix: &str) -> Vec<String> {
    let prefix = KeyPrefix::new(prefix).unwrap();
    list(&*bed.store, &prefix)
        .map_ok(|object| object.key.to_string())
        .try_collect()
        .await
        .unwrap()
}

async fn what_is_put_is_got(bed: &Bed) {
    let (target, stored) = (key("v1/ab/cd.jsonl.zst"), content(100_000));
    let before = Timestamp::now();
    bed.store.put(&target, stored.clone()).await.unwrap();
    let meta = bed.store.head(&target).await.unwrap();
    assert_eq!((&meta.key, meta.size), (&target, 100_000));
    // File systems and S3 keep whole seconds, or the kernel's coarse clock.
    assert!(
        (before.0 - 2000..=Timestamp::now().0 + 2000).contains(&meta.created_at.0),
        "{meta:?}"
    );
    assert_eq!(
        bed.store.get_range(&target, 0..100_000).await.unwrap(),
        stored
    );
    assert_eq!(read(bed, "v1/ab/cd.jsonl.zst").await, stored);
    assert_eq!(keys(bed, "").await, ["v1/ab/cd.jsonl.zst"]);

    bed.store.delete(&target).await.unwrap();
    bed.store.delete(&target).await.unwrap();
    assert_eq!(
        bed.store.head(&target).await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
    assert_eq!(keys(bed, "").await, Vec::<String>::new());
}

async fn an_object_never_changes(bed: &Bed) {
    let target = key("a/b");
    bed.store.put(&target, content(1000)).await.unwrap();
    bed.store.put(&target, content(1000)).await.unwrap();
    for other in [content(999), Bytes::from(vec![7; 1000]), Bytes::new()] {
        let error = bed.store.put(&target, other).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
    }
    assert_eq!(read(bed, "a/b").await, content(1000));
}

async fn an_empty_object(bed: &Bed) {
    let target = key("empty");
    bed.store.put(&target, Bytes::new()).await.unwrap();
    assert_eq!(bed.store.head(&target).await.unwrap().size, 0);
    assert_eq!(read(bed, "empty").await, b"");
    assert_eq!(bed.store.get_range(&target, 0..0).await.unwrap(), "");
    assert_eq!(
        bed.store.get_range(&target, 0..1).await.unwrap_err().kind(),
        ErrorKind::OutOfRange
    );
}

async fn ranges_are_exact_or_an_error(bed: &Bed) {
    let (target, stored) = (key("ranges"), content(10_000));
    bed.store.put(&target, stored.clone()).await.unwrap();
    for (start, end) in [
        (0, 1),
        (0, 10_000),
        (9_999, 10_000),
        (1, 9_999),
        (4_096, 8_192),
        (17, 17),
    ] {
        let got = bed
            .store
            .get_range(&target, start as u64..end as u64)
            .await
            .unwrap();
        assert_eq!(got, stored.slice(start..end), "{start}..{end}");
    }
    for (start, end) in [
        (0, 10_001),
        (9_999, 10_001),
        (10_000, 10_001),
        (20_000, 30_000),
    ] {
        let error = bed.store.get_range(&target, start..end).await.unwrap_err();
        assert_eq!(
            error.kind(),
            ErrorKind::OutOfRange,
            "{start}..{end}: {error}"
        );
    }
}

async fn what_is_not_there(bed: &Bed) {
    bed.store
        .put(&key("folder/object"), content(10))
        .await
        .unwrap();
    let mut all_missing = vec!["missing", "folder/missing", "no/such/folder"];
    all_missing.extend((!bed.folders_are_objects).then_some("folder"));
    for missing in all_missing {
        let target = key(missing);
        assert_eq!(
            bed.store.head(&target).await.unwrap_err().kind(),
            ErrorKind::NotFound,
            "{missing}"
        );
        let error = bed.store.get_range(&target, 0..5).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{missing}: {error}");
        assert!(error.to_string().contains(missing), "{error}");
    }
    assert_eq!(keys(bed, "nothing/with/this").await, Vec::<String>::new());
}

async fn a_listing_is_in_order_and_complete(bed: &Bed) {
    // Bytes below the slash (`-`, `.`) and above it (`0`, `_`, letters) sort around folders.
    let mut names: Vec<String> = (0..PAGE_OBJECTS + 5)
        .map(|n| format!("many/{:02x}/{n}", n % 7))
        .collect();
    names.extend(
        [
            "many/00-x",
            "many/00.x",
            "many/000",
            "many/00=",
            "other",
            "manya",
            "many-more",
        ]
        .map(String::from),
    );
    stream::iter(&names)
        .for_each_concurrent(16, |name| async move {
            bed.store
                .put(&key(name), Bytes::from_static(b"x"))
                .await
                .unwrap()
        })
        .await;
    names.sort_unstable();
    assert_eq!(keys(bed, "").await, names);

    for prefix in [
        "many/",
        "many",
        "many/00",
        "many/00/1",
        "many/06/",
        "m",
        "other",
        "othe",
        "z",
        "many/00/994x",
    ] {
        let expected: Vec<&String> = names
            .iter()
            .filter(|name| name.starts_with(prefix))
            .collect();
        assert_eq!(
            keys(bed, prefix).await.iter().collect::<Vec<_>>(),
            expected,
            "{prefix}"
        );
    }
    let everything = KeyPrefix::default();
    let (mut from, mut sizes) = (None, Vec::new());
    loop {
        let page = bed
            .store
            .list_page(&everything, from.as_ref())
            .await
            .unwrap();
        sizes.push(page.objects.len());
        from = page.next;
        if from.is_none() {
            break;
        }
    }
    assert!(
        sizes.iter().rev().skip(1).all(|size| *size == PAGE_OBJECTS),
        "{sizes:?}"
    );
    assert_eq!(sizes.iter().sum::<usize>(), names.len());
}

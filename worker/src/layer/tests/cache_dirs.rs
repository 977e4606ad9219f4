//! Directories that outlive steps.

use cairn_solver::llb::CacheSharing;
use cairn_solver::worker::CacheName;

use super::*;

fn request(sharing: CacheSharing) -> CacheRequest {
    CacheRequest {
        id: "../../etc".to_owned(),
        seed: None,
        sharing,
        description: "cached".to_owned(),
    }
}

#[tokio::test]
async fn cve_2024_9675_cache_directories_are_shared_as_asked_and_ids_are_hashed() {
    let dir = tempfile::tempdir().unwrap();
    let store = LayerStore::open(dir.path()).unwrap();
    let shared = store.cache_dir(&request(CacheSharing::Shared)).await.unwrap();
    assert!(
        shared
            .path()
            .starts_with(dir.path().canonicalize().unwrap().join("caches"))
    );
    let also = store.cache_dir(&request(CacheSharing::Shared)).await.unwrap();
    assert_eq!(shared.path(), also.path());
    let private = store.cache_dir(&request(CacheSharing::Private)).await.unwrap();
    assert_ne!(shared.path(), private.path());
    let first = shared.path().to_owned();
    drop((shared, also, private));
    let locked = store.cache_dir(&request(CacheSharing::Locked)).await.unwrap();
    assert_eq!(locked.path(), first);
    let second = store.cache_dir(&request(CacheSharing::Locked)).await.unwrap();
    let wanted = request(CacheSharing::Locked);
    let mut third = Box::pin(store.cache_dir(&wanted));
    assert!(futures_util::poll!(&mut third).is_pending());
    drop(second);
    assert_ne!(third.await.unwrap().path(), first);
    let used = store.usage().unwrap();
    assert!(
        used.iter()
            .all(|record| record.mutable && record.record_type == "exec.cachemount")
    );
    assert_eq!(
        store.prune(&PruneOptions::default(), |_| true).unwrap().len(),
        used.len() - 1,
        "one is in use"
    );
    drop(locked);
}

#[tokio::test]
async fn cache_directories_begin_anew_by_name_and_go_when_nobody_uses_them() {
    if !is_root_or_skip() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = LayerStore::open(dir.path()).unwrap();
    let seeded = CacheRequest {
        seed: Some(layer(&store, &store.scratch(), write("f", "seed"))),
        ..request(CacheSharing::Shared)
    };
    let name = |seeded| CacheName {
        id: "../../etc".to_owned(),
        seeded,
    };
    let other = CacheName {
        id: "other".to_owned(),
        seeded: false,
    };
    let used = store.cache_dir(&request(CacheSharing::Shared)).await.unwrap();
    let with_seed = store.cache_dir(&seeded).await.unwrap().path().to_owned();
    store.begin_caches_anew(&[other, name(false)]).unwrap();
    assert!(used.path().exists(), "it is in use");
    let new = store.cache_dir(&request(CacheSharing::Shared)).await.unwrap();
    assert_ne!(new.path(), used.path());
    assert_eq!(
        store.cache_dir(&seeded).await.unwrap().path(),
        with_seed,
        "that is another"
    );
    let path = used.path().to_owned();
    drop(used);
    assert!(!path.exists());
    store.begin_caches_anew(&[name(true)]).unwrap();
    assert!(!with_seed.exists());
    let again = store.cache_dir(&request(CacheSharing::Shared)).await.unwrap();
    assert_eq!(again.path(), new.path(), "the new one stays");
    drop((new, again));
    // Whoever waits for one that is locked gets a new one at once.
    let locked = store.cache_dir(&request(CacheSharing::Locked)).await.unwrap();
    let wanted = request(CacheSharing::Locked);
    let mut waiting = Box::pin(store.cache_dir(&wanted));
    assert!(futures_util::poll!(&mut waiting).is_pending());
    store.begin_caches_anew(&[name(false)]).unwrap();
    assert_ne!(waiting.await.unwrap().path(), locked.path());
}

#[tokio::test]
async fn a_cache_directory_starts_with_its_seed() {
    if !is_root_or_skip() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = LayerStore::open(dir.path()).unwrap();
    let seed = layer(&store, &store.scratch(), |root| {
        std::fs::create_dir(root.join("d")).unwrap();
        std::fs::write(root.join("d/f"), "seed").unwrap();
        std::fs::hard_link(root.join("d/f"), root.join("g")).unwrap();
        symlink("/etc/passwd", root.join("l")).unwrap();
        std::fs::set_permissions(root.join("d/f"), PermissionsExt::from_mode(0o4750)).unwrap();
    });
    let wanted = CacheRequest {
        seed: Some(seed.clone()),
        ..request(CacheSharing::Shared)
    };
    let cache = store.cache_dir(&wanted).await.unwrap();
    assert_eq!(cache.root().read_file_limited("d/f", 10).unwrap(), b"seed");
    let (f, g) = (cache.root().lstat("d/f").unwrap(), cache.root().lstat("g").unwrap());
    assert!(f.is_same_file(&g));
    assert_eq!(f.permissions(), 0o4750);
    assert_eq!(cache.root().read_link("l").unwrap(), "/etc/passwd");
    let other = store.cache_dir(&request(CacheSharing::Shared)).await.unwrap();
    assert_ne!(cache.path(), other.path());
}

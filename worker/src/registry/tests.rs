fn assert_send<T: Send>(_: T) {}

/// Everything runs in tasks of a server.
#[test]
fn futures_can_be_spawned() {
    let _check = |registry: &super::Registry,
                 reference: &super::Reference,
                 blob: &crate::image::Descriptor,
                 store: &crate::content::ContentStore,
                 document: &crate::image::Document,
                 platform: &cairn_solver::Platform| {
        assert_send(registry.resolve(reference, platform, store));
        assert_send(registry.config(reference, blob, store));
        assert_send(registry.fetch_blob(reference, blob, store, None));
        assert_send(registry.push_blob(reference, blob, store, &["a"], None));
        assert_send(registry.push_manifest(reference, document));
    };
}

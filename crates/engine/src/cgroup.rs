//! What the cgroups of this process allow, in both versions of the hierarchy (cgroups(7)).

use std::{
    fs,
    path::{Component, Path, PathBuf},
};

/// The smallest of what the `controller`'s group of this process and the groups above it say. `v2` and `v1` read one
/// group's directory. `root` is `/` but for tests.
pub(crate) fn least<T: PartialOrd>(
    root: &Path,
    controller: &str,
    v2: fn(&Path) -> Option<T>,
    v1: fn(&Path) -> Option<T>,
) -> Option<T> {
    let membership = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let mounts = root.join("sys/fs/cgroup");
    let values = membership.lines().filter_map(|line| {
        // hierarchy-id:controllers:path
        let mut fields = line.splitn(3, ':');
        let (_id, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        if controllers.is_empty() {
            of_group(&mounts, path, v2)
        } else if controllers.split(',').any(|name| name == controller) {
            let mounted = [controllers, controller];
            mounted.iter().filter_map(|name| of_group(&mounts.join(name), path, v1)).reduce(smaller)
        } else {
            None
        }
    });
    values.reduce(smaller)
}

/// The smallest of a group and its ancestors. In a container `path` may be the host's and not exist here; the mount
/// itself is then the container's own group.
fn of_group<T: PartialOrd>(mount: &Path, path: &str, read: fn(&Path) -> Option<T>) -> Option<T> {
    let inside: PathBuf = Path::new(path).components().filter(|part| matches!(part, Component::Normal(_))).collect();
    inside.ancestors().filter_map(|group| read(&mount.join(group))).reduce(smaller)
}

fn smaller<T: PartialOrd>(a: T, b: T) -> T {
    if b < a { b } else { a }
}

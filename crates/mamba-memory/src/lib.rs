//! How the allocator gives memory back.
//!
//! Left alone, mimalloc returns the pages of a burst when its threads happen to allocate a lot again, which after a burst they do not: 100 M
//! messages in one burst left 113 MiB resident of which the broker used a tenth. With these two settings 25 MiB remained (`docs/benchmarks.md`),
//! and throughput is the same. They can be set from the environment as well, but only before the process starts; a broker that somebody
//! starts by hand should not need that.

use std::ffi::c_int;

use libmimalloc_sys::mi_option_set;

/// `mi_option_purge_delay`: milliseconds after which free pages go back to the system.
const PURGE_DELAY: c_int = 15;
/// `mi_option_generic_collect`: a thread looks for free pages of its own after so many allocations that took the slow path.
const GENERIC_COLLECT: c_int = 34;

/// Has free memory go back to the system soon. Call it once, before threads are started.
pub fn give_back_early() {
    // SAFETY: the call writes one number into the allocator's table of options, whose bounds it checks. Nobody else writes there.
    unsafe { mi_option_set(PURGE_DELAY, 100) };
    // SAFETY: as above.
    unsafe { mi_option_set(GENERIC_COLLECT, 300) };
}

#[cfg(test)]
mod tests {
    use libmimalloc_sys::mi_option_get;

    use super::*;

    /// The numbers are positions in an enumeration of the C header: another version of it may have moved them.
    #[test]
    fn the_numbers_name_the_options() {
        // SAFETY: reads one number of the table of options.
        let read = |option| unsafe { mi_option_get(option) };
        assert_eq!(
            (read(PURGE_DELAY), read(GENERIC_COLLECT)),
            (1000, 10_000),
            "the defaults of this version"
        );
        give_back_early();
        assert_eq!((read(PURGE_DELAY), read(GENERIC_COLLECT)), (100, 300));
    }
}

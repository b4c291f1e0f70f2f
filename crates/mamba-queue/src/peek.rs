//! Looking at what is ready without changing anything.

use crate::{
    paging::PagedRun,
    queue::{Queue, Stored},
    ready::Ready,
};

/// A part of a page.
#[derive(Clone, Debug)]
pub enum Peeked {
    /// A message in memory.
    Message(Stored),
    /// Messages on the disk: `take` of this run, after `skip` of them.
    OnDisk {
        /// The run.
        run: PagedRun,
        /// Messages of it before the page.
        skip: u64,
        /// Messages of it on the page.
        take: u64,
    },
}

impl<P> Queue<P> {
    /// The page of at most `count` ready messages that begins after `offset` of them, in the order in which a consumer without filter
    /// would get them.
    pub fn peek(&self, offset: u64, count: u64) -> Vec<Peeked> {
        let mut page = Page {
            skip: offset,
            left: count,
            parts: Vec::new(),
        };
        self.ready().peek(&mut page);
        page.parts
    }
}

/// A page being filled.
#[derive(Debug)]
pub(crate) struct Page {
    skip: u64,
    left: u64,
    parts: Vec<Peeked>,
}

impl Page {
    /// How many of `len` messages are before the page.
    fn skipped(&mut self, len: u64) -> u64 {
        let skipped = self.skip.min(len);
        self.skip -= skipped;
        skipped
    }

    fn add_messages<'a>(&mut self, list: impl ExactSizeIterator<Item = &'a Stored>) {
        let skip = self.skipped(list.len() as u64);
        let index = |number| usize::try_from(number).unwrap_or(usize::MAX);
        for stored in list.skip(index(skip)).take(index(self.left)) {
            self.left -= 1;
            let mut stored = stored.clone();
            stored.redelivered |= stored.returns > 0;
            self.parts.push(Peeked::Message(stored));
        }
    }

    fn add_run(&mut self, run: &PagedRun) {
        let skip = self.skipped(run.count);
        let take = self.left.min(run.count - skip);
        if take > 0 {
            self.left -= take;
            self.parts.push(Peeked::OnDisk {
                run: *run,
                skip,
                take,
            });
        }
    }
}

impl Ready {
    fn peek(&self, page: &mut Page) {
        for level in self.levels() {
            if page.left == 0 {
                return;
            }
            page.add_messages(level.aside.values());
            page.add_messages(level.head.iter());
            for run in &level.paged {
                page.add_run(run);
            }
            page.add_messages(level.tail.iter());
        }
    }
}

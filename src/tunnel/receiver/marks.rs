//! Which source symbols came with a mark of the path.

use super::Receiver;
use crate::wire::payload_id::SourceId;

impl Receiver {
    /// The path marked the datagram of this source symbol, which was taken just now. Returns whether a packet with bytes
    /// in it is still to leave.
    pub fn mark(&mut self, id: SourceId) -> bool {
        let index = id.sbn.checked_sub(self.next).map(|index| index as usize);
        let open = index.and_then(|index| self.blocks.get_mut(index)).and_then(Option::as_mut);
        open.is_some_and(|open| open.block.mark(id.esi))
    }
}

//! Where single blocks are.

use super::{MOST_KEYS, hashes, known_layout, stopping};
use crate::daemon::Shared;
use kvd_block::{BlockHeader, BlockKey, ChainIdentity, HashChain, LayoutHandle, SequenceHash, SlotIndex, TierKind};
use kvd_ledger::BlockView;
use kvd_proto::admin::{Block, InspectReply, InspectRequest};
use kvd_shm::Arena;
use tonic::Status;

/// One row per block asked for and layout it is known in; blocks known nowhere have one row too.
pub async fn inspect(shared: &Shared, request: InspectRequest) -> Result<InspectReply, Status> {
    let keys = keys(shared, &request)?;
    let looked = keys.clone();
    let views = shared.driver.ask(move |view| looked.iter().map(|key| view.ledger.inspect(*key)).collect::<Vec<_>>()).await;
    let found = keys.into_iter().zip(views.map_err(stopping)?);
    let only_one = request.layout.is_some();
    let blocks: Vec<Block> =
        found.filter(|(_, view)| only_one || view.is_some()).map(|(key, view)| block(&shared.arena, key, view)).collect();
    Ok(InspectReply { blocks })
}

fn keys(shared: &Shared, request: &InspectRequest) -> Result<Vec<BlockKey>, Status> {
    let layout = request.layout.map(|handle| known_layout(shared, handle)).transpose()?;
    if !request.tokens.is_empty() {
        let layout = layout.ok_or_else(|| Status::invalid_argument("tokens need a layout: see `kvctl layouts`"))?;
        return chain(shared, layout, request);
    }
    let layouts: Vec<LayoutHandle> =
        layout.map_or_else(|| shared.layouts.all().iter().map(|layout| layout.handle).collect(), |one| vec![one]);
    let hashes = hashes(&request.hashes)?;
    if hashes.len().saturating_mul(layouts.len()) > MOST_KEYS {
        return Err(Status::invalid_argument("too many hashes without a layout"));
    }
    Ok(hashes.into_iter().flat_map(|hash| layouts.iter().map(move |layout| BlockKey { layout: *layout, hash })).collect())
}

fn chain(shared: &Shared, layout: LayoutHandle, request: &InspectRequest) -> Result<Vec<BlockKey>, Status> {
    if request.tokens.len() > MOST_KEYS {
        return Err(Status::invalid_argument(format!("{} tokens, at most {MOST_KEYS} are allowed", request.tokens.len())));
    }
    let spec = shared.layouts.get(layout).ok_or_else(|| Status::not_found("no such layout"))?;
    let identity = ChainIdentity { lora: request.lora.clone(), salt: request.salt.clone() };
    let block_tokens = spec.spec.block_tokens as usize;
    let mut chain = HashChain::new(block_tokens, &identity);
    let name = |tokens: &[u32]| BlockKey { layout, hash: chain.push(tokens, &[]).hash };
    Ok(request.tokens.chunks_exact(block_tokens).map(name).collect())
}

fn block(arena: &Arena, key: BlockKey, view: Option<BlockView>) -> Block {
    let empty = Block { layout: key.layout.0.into(), hash: key.hash.0.to_vec(), ..Block::default() };
    let Some(view) = view else { return empty };
    let header = view.cpu.filter(|_| !view.filling).and_then(|slot| header(arena, slot, key.hash));
    Block {
        parent: view.row.parent.0.to_vec(),
        local: view.row.local.0,
        position: view.row.position,
        media: TierKind::ALL.into_iter().filter(|tier| view.tiers.contains(*tier)).map(|tier| tier.medium().into()).collect(),
        cpu_page: view.cpu.map(|slot| slot.0),
        storage_page: view.nvme.map(|slot| slot.0),
        known: true,
        filling: view.filling,
        pinned: view.pinned,
        users: view.pins,
        created_unix_ms: header.as_ref().map_or(0, |header| header.created_unix_ms),
        tokens: header.map_or_else(Vec::new, |header| header.tokens),
        ..empty
    }
}

/// The header at `slot`, when it is sound and still this block's.
fn header(arena: &Arena, slot: SlotIndex, hash: SequenceHash) -> Option<BlockHeader> {
    BlockHeader::decode(&arena.read_header(slot)).ok().filter(|header| header.hash == hash)
}

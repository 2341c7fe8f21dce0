//! Registered assets, for people.

use stoq_admin::ApiError;
use stoq_admin::api::{Allocation, Asset, AssetList, AssetShow};

use crate::commands::{cut_note, or_dash, yes};
use crate::context::Context;
use crate::render::{Cell, Report, cell};

pub(super) async fn list(context: &Context, request: AssetList) -> Result<Report, ApiError> {
    let listed = context.call(request).await?;
    let row = |asset: &Asset| {
        vec![
            cell(&asset.id),
            cell(&asset.name),
            cell(&asset.node),
            Cell::figure(asset.capacity),
            Cell::figure(asset.allocated),
            Cell::figure(asset.in_use),
            cell(&asset.state),
            cell(yes(asset.own)),
        ]
    };
    let rows = listed.assets.iter().map(row).collect();
    let head = ["asset", "name", "node", "capacity", "allocated", "in use", "state", "own"];
    let empty = "no asset is registered; `stoqctl asset register` registers one";
    let report = context.report(&listed)?.table(&head, rows, empty);
    Ok(match cut_note(listed.assets.len(), listed.total) {
        Some(note) => report.note(note),
        None => report,
    })
}

pub(super) async fn asset(context: &Context, asset: String) -> Result<Report, ApiError> {
    let shown = context.call(AssetShow { asset }).await?;
    let one = &shown.asset;
    let row = |allocation: &Allocation| {
        vec![
            cell(&allocation.id),
            Cell::figure(allocation.quantity),
            cell(&allocation.state),
            cell(&allocation.holder),
            Cell::figure(allocation.since_height),
        ]
    };
    let rows = shown.allocations.iter().map(row).collect();
    let fields = vec![
        ("asset", cell(&one.id)),
        ("name", cell(&one.name)),
        ("node", cell(&one.node)),
        ("owner", cell(&one.owner)),
        ("capacity", cell(format!("{} {}", one.capacity, one.unit))),
        ("allocated", cell(one.allocated)),
        ("in use", cell(one.in_use)),
        ("failed", cell(one.failed)),
        ("state", cell(&one.state)),
        ("shared", cell(yes(one.shared))),
        ("certificate", cell(or_dash(one.certificate.as_ref()))),
        ("registered", cell(format!("in block {}", one.registered_height))),
    ];
    let head = ["allocation", "quantity", "state", "holder", "since"];
    Ok(context.report(&shown)?.fields(fields).table(&head, rows, "nothing is taken of it"))
}

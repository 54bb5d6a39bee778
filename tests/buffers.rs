//! What is allocated is what was planned.

mod common;

use common::{engine, fixture, minimum_ram};
use outpour_engine::{Inspection, Options};
use outpour_kernels::allocated_bytes;
use outpour_store::plan::Plan;
use outpour_store::read::ReaderKind;

fn line(plan: &Plan, name: &str) -> usize {
    plan.buffers.iter().find(|line| line.name == name).unwrap_or_else(|| panic!("no buffer {name}")).bytes
}

#[test]
fn buffers_are_allocated_as_planned() {
    let models = [
        "qwen3_moe",
        "qwen3_moe_odd",
        "qwen3_next",
        "qwen3_5_moe",
        "qwen3_5_moe_mlx4",
        "qwen3_next_mlx_mixed",
        "glm_moe_dsa",
        "deepseek_v4",
    ];
    for name in models {
        let model = fixture(name);
        for (precise, share) in [(false, 1.0), (false, 1.7), (true, 3.0)] {
            let options = Options { precise, ctx: Some(64), ..Options::default() };
            let ram = (minimum_ram(&model, &Options { ram: 1 << 30, ..options }) as f64 * share) as usize;
            let options = Options { ram, ..options };
            let inspection = Inspection::open(&model, precise).unwrap_or_else(|error| panic!("{name}: {error}"));
            let plan = inspection.plan(&options).unwrap_or_else(|error| panic!("{name}: {error}"));
            let before = allocated_bytes();
            let engine = engine(&model, &options, ReaderKind::Auto);
            let allocated = allocated_bytes() - before;
            let fixed = line(&plan, "trunk") + plan.trunk.window() + plan.trunk.rows + line(&plan, "slab");
            let scratch = line(&plan, "scratch");
            // The scratch counts the host's copy of the logits and what a backend rounds activations into, which are
            // allocated apart.
            let buffers = scratch - engine.scratch_beside_buffers();
            assert_eq!(allocated, fixed + buffers, "{name} at {ram}: {:?}", plan.buffers);
            drop(engine);
            assert_eq!(allocated_bytes(), before, "{name}: given back");
        }
    }
}

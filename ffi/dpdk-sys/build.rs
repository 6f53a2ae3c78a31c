//! Finds the system's DPDK with pkg-config, lets bindgen read `wrapper.h`, and compiles the C twins of its inline
//! functions. Nothing about DPDK is written down here except what is asked for: which libraries and compiler flags
//! are needed is pkg-config's answer; drivers are DPDK's own plugins and are not linked at all.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The functions the `dpdk` crate calls. Everything else in DPDK stays unbound, so that a build takes seconds and a
/// renamed function shows up here.
const FUNCTIONS: &str = "xd_.*\
    |rte_eal_(init|cleanup|get_runtime_dir)|rte_strerror|rte_dev_probe|rte_thread_(register|unregister|set_affinity)|sched_getaffinity\
    |rte_log_set_level_pattern\
    |rte_pktmbuf_(pool_create|alloc|free|free_bulk|chain)|rte_mempool_(avail_count|in_use_count)\
    |rte_ring_(create|free|count|sp_enqueue_burst|sc_dequeue_burst)\
    |rte_eth_dev_(start|stop|get_port_by_name|get_name_by_port|adjust_nb_rx_tx_desc|get_mtu|set_mtu|vlan_filter)\
    |rte_eth_promiscuous_(enable|disable)|rte_eth_allmulticast_enable|rte_eth_(rx|tx)_burst|rte_eth_tx_prepare";

fn main() {
    println!("cargo:rerun-if-changed=wrapper.h");
    println!("cargo:rerun-if-changed=build.rs");
    let library = match pkg_config::Config::new().atleast_version("22.11").probe("libdpdk") {
        Ok(library) => library,
        Err(error) => panic!(
            "DPDK 22.11 or newer was not found by pkg-config. On Debian or Ubuntu: apt-get install libdpdk-dev \
             pkg-config clang libclang-dev. Elsewhere put the directory of libdpdk.pc into PKG_CONFIG_PATH.\n{error}"
        ),
    };
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let flags = compiler_flags(&library.include_paths);
    generate_bindings(&out, &flags);
    compile_inline_functions(&out, &flags);
}

/// Include directories plus what DPDK's headers must be compiled with (`-include rte_config.h -march=...`).
fn compiler_flags(include_paths: &[PathBuf]) -> Vec<String> {
    let output = Command::new(std::env::var("PKG_CONFIG").unwrap_or_else(|_| "pkg-config".into()))
        .args(["--cflags-only-other", "libdpdk"])
        .output()
        .expect("pkg-config ran a moment ago");
    let mut flags: Vec<String> = include_paths.iter().map(|path| format!("-I{}", path.display())).collect();
    flags.extend(String::from_utf8_lossy(&output.stdout).split_whitespace().map(str::to_owned));
    flags
}

fn generate_bindings(out: &Path, flags: &[String]) {
    bindgen::Builder::default()
        .header("wrapper.h")
        .clang_args(flags)
        .allowlist_function(FUNCTIONS)
        .allowlist_var("XD_.*")
        .allowlist_type("xd_.*")
        // Only ever seen through pointers, declared in lib.rs: their fields belong to wrapper.h.
        .blocklist_type("(__)?rte_(mbuf|mempool|ring)(_.*)?")
        .prepend_enum_name(false)
        .derive_debug(false)
        .wrap_static_fns(true)
        .wrap_static_fns_path(out.join("inline"))
        .parse_callbacks(Box::new(bindgen::CargoCallbacks::new()))
        .generate()
        .expect("bindgen reads wrapper.h")
        .write_to_file(out.join("bindings.rs"))
        .expect("OUT_DIR is writable");
}

fn compile_inline_functions(out: &Path, flags: &[String]) {
    let mut build = cc::Build::new();
    build.file(out.join("inline.c")).include(".").opt_level(3);
    for flag in flags {
        build.flag(flag);
    }
    // The headers are DPDK's; their warnings are not ours to mend.
    build.warnings(false).compile("dpdk_inline");
}

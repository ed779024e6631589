// SPDX-License-Identifier: Apache-2.0
//! Finds libiokv: `$IOKV_LIB_DIR` where set, else by pkg-config. `$DOCS_RS`: documentation needs no library.

use std::process::Command;

fn main() {
    println!("cargo:rerun-if-env-changed=IOKV_LIB_DIR");
    println!("cargo:rerun-if-env-changed=PKG_CONFIG_PATH");
    println!("cargo:rustc-link-lib=dylib=iokv");
    if std::env::var_os("DOCS_RS").is_some() {
        return;
    }
    if let Some(directory) = std::env::var_os("IOKV_LIB_DIR") {
        println!("cargo:rustc-link-search=native={}", directory.to_string_lossy());
        return;
    }
    let pkg_config = std::env::var("PKG_CONFIG").unwrap_or_else(|_| "pkg-config".into());
    let asked = Command::new(&pkg_config).args(["--libs-only-L", "iokv >= 1.0"]).output();
    match asked {
        Ok(output) if output.status.success() => {
            for word in String::from_utf8_lossy(&output.stdout).split_whitespace() {
                if let Some(directory) = word.strip_prefix("-L") {
                    println!("cargo:rustc-link-search=native={directory}");
                }
            }
        }
        Ok(output) => panic!(
            "libiokv was not found: install libiokv-dev, or set IOKV_LIB_DIR to the directory of libiokv.so\n{}",
            String::from_utf8_lossy(&output.stderr)
        ),
        Err(error) => panic!("cannot run {pkg_config} ({error}): install it, or set IOKV_LIB_DIR"),
    }
}

//! The part of protoc that prost-build calls, so that a crate whose build script wants protoc builds without it.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

fn main() -> Result<()> {
    let (mut includes, mut files, mut output) = (Vec::<PathBuf>::new(), Vec::<PathBuf>::new(), None);
    let mut arguments = std::env::args_os().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.to_str() {
            Some("--include_imports" | "--include_source_info") => {}
            Some("-o") => output = arguments.next(),
            Some("-I") => includes.push(arguments.next().context("-I without a folder")?.into()),
            Some(flag) if flag.starts_with('-') => bail!("{flag} is not among the flags that prost-build uses"),
            _ => files.push(argument.into()),
        }
    }
    let mut compiler = protox::Compiler::new(includes)?;
    compiler.include_imports(true).include_source_info(true).open_files(files)?;
    std::fs::write(output.context("-o FILE is missing")?, compiler.encode_file_descriptor_set())?;
    Ok(())
}

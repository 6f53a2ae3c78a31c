//! Hides an `af_packet` interface from its own kernel, and leaves nothing behind however the process ends.
//!
//! An AF_PACKET socket gets a copy of every packet; the kernel gets the packet too, and would answer ARP,
//! ping and TCP a second time. The shield is an nftables table of the netdev family on that one interface.
//! Its ingress chain drops everything *after* the AF_PACKET tap has taken its copy. Its egress chain drops
//! what the kernel itself would say there (ARP, router solicitations, MLD). Packet sockets pass that hook
//! too, even with PACKET_QDISC_BYPASS; theirs are told from the kernel's by having a socket with an owner.
//!
//! The table has `flags owner`: it belongs to the netlink socket of a child, `nft -i`, which lives as long as
//! our end of its standard input. Whatever kills us closes that pipe, `nft` ends, and the kernel removes the
//! table; nor does another program's `flush ruleset` touch it meanwhile. Needed for af_packet only: af_xdp
//! takes packets before all this, a PCI port has no kernel side. Read first: nft(8) on `table` flags and the
//! netdev family; packet(7) on PACKET_QDISC_BYPASS.

use std::{io, process::Stdio, time::Duration};

use ipnet::IpNet;
use rtnetlink::Handle;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command},
    time::timeout,
};

use super::{error::KernelError, link};

/// How long `nft` may take over one command before it counts as hung. It needs some 20 ms.
const NFT_PATIENCE: Duration = Duration::from_secs(10);

/// A shielded interface. Dropping it kills the `nft` that holds the table, and with it the table.
#[derive(Debug)]
pub struct Shield {
    nft: Nft,
    covers_egress: bool,
}

impl Shield {
    /// Brings the interface up and hides it from its kernel. The table is in force on return.
    ///
    /// # Errors
    /// [`KernelError::NoInterface`], [`KernelError::NotPermitted`], [`KernelError::NftMissing`],
    /// [`KernelError::Nft`], and what [`Shield::check_no_addresses`] says.
    pub async fn install(handle: &Handle, ifname: &str) -> Result<Self, KernelError> {
        Self::check_no_addresses(handle, ifname).await?;
        let link = link::find(handle, ifname).await?;
        let mut nft = Nft::start(ifname)?;
        let table = format!("crossdock_{}_{}", std::process::id(), link.ifindex);
        let chain = |hook: &str, policy: &str| {
            format!("type filter hook {hook} device \"{ifname}\" priority -500; policy {policy};")
        };
        let ingress = chain("ingress", "drop");
        nft.run(
            &table,
            &format!("add table netdev {table} {{ flags owner; chain ingress {{ {ingress} }}; }}"),
        )
        .await?;
        // Data is IPv4 in the main and leaves after one comparison; of the rest, packets without an owned
        // socket are the kernel's. IPv4 of the kernel's own there is not: it has no address to speak from.
        let rules = "meta protocol != { ip6, arp } accept; meta skuid 0-4294967295 accept; drop;";
        let egress = format!("{} {rules}", chain("egress", "accept"));
        let covers_egress =
            nft.run(&table, &format!("add chain netdev {table} egress {{ {egress} }}")).await.is_ok();
        // Up only now, so that the kernel's first router solicitation stays inside.
        link::bring_up(handle, &link, None).await?;
        Ok(Self { nft, covers_egress })
    }

    /// Refuses an interface that the shield would cut off from something: one with addresses, or one that
    /// belongs to a bridge or bond. The kernel's own IPv6 link-local addresses do not count.
    ///
    /// # Errors
    /// [`KernelError::HoldsAddresses`], [`KernelError::Enslaved`], [`KernelError::NoInterface`].
    pub async fn check_no_addresses(handle: &Handle, ifname: &str) -> Result<(), KernelError> {
        let link = link::find(handle, ifname).await?;
        if let Some(ifindex) = link.controller {
            let controller = link::name_of(handle, ifindex).await;
            return Err(KernelError::Enslaved { ifname: ifname.into(), controller });
        }
        let mut addresses = link::addresses(handle, &link).await?;
        addresses.retain(|address| !matches!(address, IpNet::V6(v6) if v6.addr().is_unicast_link_local()));
        if addresses.is_empty() {
            return Ok(());
        }
        Err(KernelError::HoldsAddresses { ifname: ifname.into(), addresses })
    }

    /// Whether the kernel's own packets are kept off the wire too: nftables can from Linux 5.16 on. Without
    /// it the interface emits a few router solicitations and MLD reports when it comes up, and no more.
    pub fn covers_egress(&self) -> bool {
        self.covers_egress
    }

    /// Ends when the shield has fallen because somebody killed its `nft`; says so. Safe to drop and call
    /// again.
    pub async fn lost(&mut self) -> KernelError {
        let ended = match self.nft.child.wait().await {
            Ok(status) => format!("it ended: {status}"),
            Err(error) => error.to_string(),
        };
        self.nft
            .error(format!("the shield is down, {ended}; the kernel now answers on this interface as well"))
    }

    /// Takes the shield away and waits until it is gone.
    ///
    /// # Errors
    /// [`KernelError::Io`] when the holding `nft` cannot be ended.
    pub async fn remove(mut self) -> Result<(), KernelError> {
        self.nft.child.kill().await.map_err(|source| KernelError::Io { what: "end nft".into(), source })
    }
}

/// An interactive `nft` that keeps a table alive.
#[derive(Debug)]
struct Nft {
    ifname: String,
    child: Child,
    stdin: ChildStdin,
    stdout: Lines<BufReader<ChildStdout>>,
    stderr: Lines<BufReader<ChildStderr>>,
}

impl Nft {
    fn start(ifname: &str) -> Result<Self, KernelError> {
        let spawned = Command::new("nft")
            .arg("-i")
            // libedit would write ~/.nft.history.
            .env("HOME", "/nonexistent")
            // A group of its own: Ctrl-C is ours to handle, and the shield outlives it until we are done.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn();
        let mut child = spawned.map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => KernelError::NftMissing,
            _ => KernelError::Io { what: "start nft".into(), source },
        })?;
        let (Some(stdin), Some(stdout), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            let source = io::Error::other("a pipe is missing");
            return Err(KernelError::Io { what: "talk to nft".into(), source });
        };
        let (stdout, stderr) = (BufReader::new(stdout).lines(), BufReader::new(stderr).lines());
        Ok(Self { ifname: ifname.into(), child, stdin, stdout, stderr })
    }

    /// Runs a command and lists `table` after it: the listing's end says that it worked, a word on stderr
    /// that it did not. `nft -i` gives no other sign.
    async fn run(&mut self, table: &str, command: &str) -> Result<(), KernelError> {
        let script = format!("{command}\nlist table netdev {table}\n");
        if let Err(error) = self.stdin.write_all(script.as_bytes()).await {
            return Err(self.error(error.to_string()));
        }
        match timeout(NFT_PATIENCE, self.answer()).await {
            Ok(None) => Ok(()),
            Ok(Some(message)) if message.contains("Operation not permitted") => {
                Err(KernelError::NotPermitted { what: format!("shield {}", self.ifname) })
            }
            Ok(Some(message)) => Err(self.error(message)),
            Err(_) => Err(self.error(format!("no answer within {NFT_PATIENCE:?}"))),
        }
    }

    /// `None` when the listing came, otherwise the complaint.
    async fn answer(&mut self) -> Option<String> {
        loop {
            tokio::select! {
                biased;
                line = self.stderr.next_line() => match line {
                    Ok(Some(line)) if line.trim().is_empty() => {}
                    Ok(Some(line)) => return Some(line),
                    _ => return Some("it ended at once".into()),
                },
                line = self.stdout.next_line() => match line {
                    Ok(Some(line)) if line == "}" => return None,
                    Ok(Some(_)) => {}
                    _ => return Some("it ended at once".into()),
                },
            }
        }
    }

    fn error(&self, message: String) -> KernelError {
        KernelError::Nft { ifname: self.ifname.clone(), message }
    }
}

"""Plans that come with dslbench: one TOML file each; see `dslbench.plan`."""

//go:build tools

// Package tools keeps what the throw-away cluster builds in go.mod.
package tools

import (
	_ "github.com/coredns/coredns"
)

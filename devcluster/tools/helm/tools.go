//go:build tools

// Package tools keeps what the throw-away cluster builds in go.mod.
package tools

import (
	_ "helm.sh/helm/v4/cmd/helm"
)

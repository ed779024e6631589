module github.com/iokv/iokv/bindings/conformance/drivers/go

go 1.19

require github.com/iokv/iokv/bindings/go v0.0.0

replace github.com/iokv/iokv/bindings/go => ../../../go

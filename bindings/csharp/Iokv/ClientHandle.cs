// SPDX-License-Identifier: Apache-2.0
using System;
using Microsoft.Win32.SafeHandles;

namespace Iokv.Native
{
    /// <summary>Owns an iokv_client. A call holds a reference, so iokv_disconnect, which must be alone, runs when the last call
    /// has returned, however early Dispose was called.</summary>
    internal sealed class ClientHandle : SafeHandleZeroOrMinusOneIsInvalid
    {
        public ClientHandle(IntPtr client) : base(true)
        {
            SetHandle(client);
        }

        protected override bool ReleaseHandle()
        {
            Library.iokv_disconnect(handle);
            return true;
        }
    }
}

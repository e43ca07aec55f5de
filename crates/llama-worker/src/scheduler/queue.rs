//! Waiting requests: in turn between tenants, first come first served within one.

use std::collections::{HashMap, VecDeque};

use protocol::TenantId;

#[derive(Debug)]
pub(crate) struct Queue<T> {
    by_tenant: HashMap<TenantId, VecDeque<T>>,
    /// Tenants with something waiting, the next in turn first.
    turns: VecDeque<TenantId>,
    length: usize,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { by_tenant: HashMap::new(), turns: VecDeque::new(), length: 0 }
    }
}

impl<T> Queue<T> {
    pub(crate) fn len(&self) -> usize {
        self.length
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.length == 0
    }

    pub(crate) fn push(&mut self, tenant: TenantId, request: T) {
        let waiting = self.by_tenant.entry(tenant.clone()).or_default();
        if waiting.is_empty() {
            self.turns.push_back(tenant);
        }
        waiting.push_back(request);
        self.length += 1;
    }

    pub(crate) fn pop(&mut self) -> Option<T> {
        let tenant = self.turns.pop_front()?;
        let waiting = self.by_tenant.get_mut(&tenant)?;
        let request = waiting.pop_front()?;
        self.length -= 1;
        if waiting.is_empty() {
            self.by_tenant.remove(&tenant);
        } else {
            self.turns.push_back(tenant);
        }
        Some(request)
    }

    /// Removes the first request that `wanted` names.
    pub(crate) fn remove(&mut self, wanted: impl Fn(&T) -> bool) -> bool {
        let found = self
            .by_tenant
            .iter()
            .find_map(|(tenant, waiting)| waiting.iter().position(&wanted).map(|at| (tenant.clone(), at)));
        let Some((tenant, at)) = found else { return false };
        if let Some(waiting) = self.by_tenant.get_mut(&tenant) {
            waiting.remove(at);
            self.length -= 1;
            if waiting.is_empty() {
                self.by_tenant.remove(&tenant);
                self.turns.retain(|turn| *turn != tenant);
            }
        }
        true
    }
}
